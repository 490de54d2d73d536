"""Loads LangGraph's threads of several ages: the state now, at a checkpoint, and the last checkpoints.

`--do fill` builds the threads, with `--real` turns at most that were taken as turns; older messages come in one
checkpoint, since each turn stores all messages anew. `--do ask` measures. Ages are named by what the same turns are in
events of ours. A checkpointer remembers nothing: there is no warm state.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvloop
from langchain_core.messages import HumanMessage

from benchmarks.append_load import numbers
from benchmarks.assistant_turns import EVENTS
from benchmarks.contestants.exchanges import said
from benchmarks.contestants.langgraph_graph import config, graphs
from benchmarks.contestants.langgraph_turns import bring_on
from benchmarks.contestants.rehydrate_threadfold import Question, answered
from benchmarks.side_by_side.figures import Figures, options, say

THREADS = 3
"""Of each age."""

FULL = 1_000
"""Events up to which each question is asked as often as of ours."""

RECENT = 40
"""Checkpoints of a thread that are asked for: to list them all takes minutes."""

HISTORY = 10
"""Checkpoints of a page of history."""


def name_of(size: int, number: int) -> int:
    """Name a thread: numbers say what is said in it."""
    return size * 100 + number


async def fill(graph: Any, sizes: Sequence[int], real: int) -> Figures:
    """Build the threads."""
    began = time.perf_counter()

    async def build_one(size: int, number: int) -> None:
        thread, turns = name_of(size, number), max(1, size // EVENTS)
        first = max(0, turns - real)
        await bring_on([graph], [thread], range(first))
        for turn in range(first, turns):
            message = HumanMessage(content=said(thread, turn))
            await graph.ainvoke({"messages": [message]}, config(thread), durability="sync")

    await asyncio.gather(*[build_one(size, number) for size in sizes for number in range(THREADS)])
    return {"seconds": time.perf_counter() - began}


async def questions(graph: Any, size: int, times: int, chance: random.Random) -> Sequence[Question]:
    """List what to ask, each so many times."""
    threads = [config(name_of(size, number)) for number in range(THREADS)]
    checkpoints = [
        found.config for thread in threads[:1] async for found in graph.aget_state_history(thread, limit=RECENT)
    ]

    async def now(place: Any) -> None:
        await graph.aget_state(place)

    async def history(thread: Any) -> None:
        async for _ in graph.aget_state_history(thread, limit=HISTORY):
            pass

    return [
        *((f"cold {size}", partial(now, chance.choice(threads))) for _ in range(times)),
        *((f"version {size}", partial(now, chance.choice(checkpoints))) for _ in range(times)),
        *((f"history {size}", partial(history, thread)) for thread in threads),
    ]


async def main(arguments: argparse.Namespace) -> Figures:
    chance = random.Random(arguments.seed)
    async with graphs(arguments.database, savers=1) as [graph]:
        if arguments.do == "fill":
            return await fill(graph, arguments.sizes, arguments.real)
        asked: list[Question] = []
        for size in arguments.sizes:
            times = max(arguments.times * FULL // max(size, FULL), 8)  # of large states fewer, or it takes minutes
            asked += await questions(graph, size, times, chance)
        chance.shuffle(asked)
        return await answered(asked)


if __name__ == "__main__":
    say(uvloop.run(main(options(do=str, sizes=numbers, times=int, seed=int, real=int))))
