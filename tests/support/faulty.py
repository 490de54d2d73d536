"""Agents whose code kills its process, and innocent ones that run beside them."""

import asyncio
import os
from collections.abc import Sequence

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.thread.events import END, NodeEvent


def alone(name: str, run: object, timeout: float = 300) -> Agent:
    """An agent of one node."""
    return Agent(Graph(name, "only", [Node("only", run, timeout=timeout)], {"only": END}))  # type: ignore[arg-type]


async def _kill(_: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(0.3)
    os._exit(0)  # as if all were well


async def _sleep(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(float(turn.user_input))
    return [turn.say("slept")]


async def _say(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("here")]


killer = alone("killer", _kill)
sleeper = alone("sleeper", _sleep)
old = alone("old", _say)
new = alone("new", _say)
both = alone("both", _say)
