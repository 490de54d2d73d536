"""Agents for tests over HTTP. Each is named in AGENTS as `tests.support.agents:<name>`."""

import asyncio
from collections.abc import Sequence

from domain.agent import Agent, TurnContext
from domain.application.assistant import assistant
from domain.events import NodeFact
from domain.graph import END, Graph, Node
from domain.tools import tool

PAUSE = 0.05


async def _wait(turn: TurnContext) -> Sequence[NodeFact]:
    await asyncio.sleep(PAUSE)
    return [turn.say(f"You said: {turn.user_input}")]


async def _say_more(turn: TurnContext) -> Sequence[NodeFact]:
    await asyncio.sleep(PAUSE)
    return [turn.say("That is all.")]


slow = Agent(
    Graph("slow", "wait", [Node("wait", _wait), Node("say_more", _say_more)], {"wait": "say_more", "say_more": END})
)
"""Takes a tenth of a second for an answer, in two nodes."""


async def _stay(turn: TurnContext) -> Sequence[NodeFact]:
    await asyncio.sleep(600)
    return [turn.say("At last.")]


stuck = Agent(Graph("stuck", "stay", [Node("stay", _stay, timeout=900)], {"stay": END}))
"""Does not end by itself."""


@tool(approval=True)
async def refund(amount: int) -> str:
    """Pay something back."""
    return f"refunded {amount}"


cashier = assistant("cashier", tools=[refund], slash_commands=True)
"""Needs a person for `/refund 5`."""
