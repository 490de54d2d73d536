"""An agent of twenty quick nodes, each of which says in which process it ran."""

import asyncio
import os
from collections.abc import Sequence

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.thread.events import END, NodeEvent

COUNT = 20
PAUSE = 0.05


async def _step(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(PAUSE)
    return [turn.say(str(os.getpid()))]


_names = [f"step_{number}" for number in range(COUNT)]

steps = Agent(
    Graph(
        "steps",
        _names[0],
        [Node(name, _step) for name in _names],
        dict(zip(_names, [*_names[1:], END], strict=True)),
    )
)
