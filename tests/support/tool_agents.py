"""An agent with tools that say what they were given, for turns whose model calls them oddly."""

from typing import Any

from threadfold import assistant, tool

RUNS: list[str] = []
"""The calls that were run, by their tools' names."""


@tool(idempotent=True)
async def echo(text: str = "") -> str:
    """Say a text again."""
    RUNS.append("echo")
    return f"echo[{text}]"


@tool(idempotent=True)
async def store(data: dict[str, Any]) -> str:
    """Store an object."""
    RUNS.append("store")
    return f"stored {len(data)}"


@tool
async def pay(amount: int) -> str:
    """Pay an amount."""
    RUNS.append("pay")
    return f"paid {amount}"


@tool(approval=True)
async def refund(amount: int) -> str:
    """Pay an amount back, if a person agrees."""
    RUNS.append("refund")
    return f"refunded {amount}"


odd = assistant("odd", tools=[echo, store, pay, refund])
