"""Agents that do nothing wrong. What they do outside is written down (see `effects`), so that it can be counted.

The input of a turn is a number of seconds, and for `asker` anything.
"""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.graph import Graph, Node
from domain.agents.tools import ToolContext, tool
from domain.json import Json
from domain.thread.events import END, NodeEvent
from tests.chaos import clock
from tests.chaos.effects import effect

clock.shift()

MODULE = "tests.chaos.innocent"

PATIENCE = 600.0


def _seconds(turn: TurnContext) -> float:
    return float(turn.user_input.split()[0])


async def _answer(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("Done.")]


quick = Agent(Graph("quick", "answer", [Node("answer", _answer)], {"answer": END}))
"""Answers at once."""


async def _tell(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say(f"The number is {uuid4()}.")]


teller = Agent(Graph("teller", "tell", [Node("tell", _tell)], {"tell": END}))
"""Answers differently each time that it is asked: an answer that was given can be told from one of a repetition."""


async def _sleep(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(_seconds(turn))
    return [turn.say("Slept.")]


sleeper = Agent(
    Graph(
        "sleeper",
        "sleep",
        [Node("sleep", _sleep, timeout=PATIENCE), Node("answer", _answer)],
        {"sleep": "answer", "answer": END},
    )
)
"""Sleeps so many seconds in one node, and answers in the next."""


@tool(idempotent=False, timeout=PATIENCE)
async def pay(amount: int, seconds: float, call: ToolContext) -> str:
    """Pay something, which must not be done twice."""
    effect("pay begins", call.idempotency_key)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        effect("pay is cancelled", call.idempotency_key)
        raise
    effect("pay", call.idempotency_key)
    return f"paid {amount}"


@tool(idempotent=True, timeout=PATIENCE)
async def look_at(seconds: float) -> str:
    """Look at something, as often as one likes."""
    await asyncio.sleep(seconds)
    return "seen"


async def _request(turn: TurnContext) -> Sequence[NodeEvent]:
    seconds = _seconds(turn)
    one, *others = turn.request("pay", amount=5, seconds=seconds / 4)
    more = (turn.request("pay", amount=7, seconds=seconds), turn.request("look_at", seconds=seconds / 2))
    return [one, *others, *[call for _, call in more]]


async def _run_tools(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return [turn.say("All is paid.")]


payer = Agent(
    Graph(
        "payer",
        "request",
        [Node("request", _request), Node("pay", _run_tools, timeout=PATIENCE), Node("answer", _answer)],
        {"request": "pay", "pay": "answer", "answer": END},
    ),
    tools=[pay, look_at],
)
"""Runs three tools at once: a short and a long one that must not be repeated, and one that may."""


async def _item(item: ItemContext, seconds: Json) -> Json:
    await asyncio.sleep(float(seconds))
    effect("item", item.idempotency_key)
    return "done"


async def _items(turn: TurnContext) -> Sequence[NodeEvent]:
    seconds = _seconds(turn)
    await turn.map([seconds / 4, seconds / 2, seconds], _item)
    return [turn.say("Each is done.")]


mapper = Agent(Graph("mapper", "items", [Node("items", _items, timeout=PATIENCE)], {"items": END}))
"""Works on three items at once, of which the last takes so many seconds."""


async def _ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.generate()


asker = Agent(
    Graph(
        "asker",
        "first",
        [Node("first", _ask, timeout=PATIENCE), Node("second", _ask, timeout=PATIENCE)],
        {"first": "second", "second": END},
    )
)
"""Asks the model twice, one node after the other."""


async def _ask_item(item: ItemContext, question: Json) -> Json:
    return (await item.ask(str(question)))[:100]


async def _ask_items(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.map([f"{turn.user_input} item {number}" for number in range(3)], _ask_item)
    return [turn.say("Each was asked.")]


mapasker = Agent(Graph("mapasker", "items", [Node("items", _ask_items, timeout=PATIENCE)], {"items": END}))
"""Asks the model about each of three items."""

NAMES = ("quick", "teller", "sleeper", "payer", "mapper", "asker", "mapasker")
AGENTS = ",".join(f"{MODULE}:{name}" for name in NAMES)
