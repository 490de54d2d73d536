"""Agents whose nodes do what no process should die of: block, print, and end the event loop."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

from threadfold import END, Agent, Graph, Node, NodeEvent, TurnContext


def _agent(name: str, run: Any) -> Agent:
    return Agent(Graph(name, "only", [Node("only", run, timeout=3_600)], {"only": END}))


async def _quick(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("quick")]


async def _block_its_thread(turn: TurnContext) -> Sequence[NodeEvent]:
    time.sleep(3_600)  # noqa: ASYNC251  (that is the point)
    return [turn.say("over")]


async def _block_and_hold_the_interpreter(turn: TurnContext) -> Sequence[NodeEvent]:
    print("holding the interpreter", flush=True)  # noqa: T201  (a process that does so answers no question)
    max(iter(int, 1))  # endless, in C, without a look at signals or other threads
    return [turn.say("over")]


async def _print(turn: TurnContext) -> Sequence[NodeEvent]:
    """Print as many kB as the user says, in lines or, with `whole`, in one piece."""
    found = re.fullmatch(r"(\d+)( whole)?", turn.user_input)
    assert found
    for _ in range(int(found[1])):
        print("x" * 1_023, end="x" if found[2] else "\n")  # noqa: T201  (that is the point)
    return [turn.say("printed")]


async def _end_the_loop(turn: TurnContext) -> Sequence[NodeEvent]:
    def leave() -> None:
        raise SystemExit(0)

    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(3_600)
    return [turn.say("over")]


quick = _agent("quick", _quick)
blocker = _agent("blocker", _block_its_thread)
holder = _agent("holder", _block_and_hold_the_interpreter)
printer = _agent("printer", _print)
leaver = _agent("leaver", _end_the_loop)

NAMES = ",".join(f"{__name__}:{name}" for name in ("quick", "blocker", "holder", "printer", "leaver"))
