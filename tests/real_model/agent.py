"""The agent that the model plays: three tools, and few words, since the model is small."""

from threadfold import assistant, tool


@tool(idempotent=True)
async def weather(city: str) -> str:
    """Get the weather of a city."""
    return f"{'rain' if len(city) % 2 else 'sun'}, {10 + len(city)} degrees"


@tool(idempotent=True)
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(idempotent=True)
async def clock() -> str:
    """Tell the time."""
    return "16:20"


helper = assistant("helper", instructions="You are a helpful assistant. Answer briefly.", tools=[weather, add, clock])
