"""LangGraph takes turns, in one process, each by `ainvoke` with the durability that is asked for."""

import asyncio
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import uvloop
from langchain_core.messages import HumanMessage

from benchmarks.contestants.exchanges import said
from benchmarks.contestants.langgraph_graph import TABLES, config, graphs, messages_of
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.sizes import size_of
from benchmarks.side_by_side.stretches import WARMING_UP, Meter, stretches, turn_options


async def main(arguments: Namespace) -> Figures:
    async with graphs(arguments.database, arguments.messages, arguments.savers) as made:
        await converse(made, arguments, [-1], WARMING_UP, [])
        threads = range(arguments.threads)
        before, meter, done = await size_of(arguments.database, TABLES), Meter(arguments), 0
        for stretch in stretches(arguments):
            await bring_on(made, threads, range(done, stretch.start))
            with meter:
                await converse(made, arguments, threads, stretch, meter.seconds)
            done = stretch.stop
        await _check(made, threads, done)
        taken = meter.told()
        if taken["turns"] == len(threads) * done:  # nothing was left out
            after = await size_of(arguments.database, TABLES)
            taken["bytes_per_turn"] = (after["bytes"] - before["bytes"]) / taken["turns"]
    return taken


async def converse(
    made: Sequence[Any], arguments: Namespace, threads: Sequence[int], turns: range, seconds: list[float]
) -> None:
    """Take these turns in all threads at the same time, one after the other in each."""

    async def talk(thread: int) -> None:
        graph, named = made[thread % len(made)], config(thread)
        for turn in turns:
            began = time.perf_counter()
            message = HumanMessage(content=said(thread, turn))
            await graph.ainvoke({"messages": [message]}, named, durability=arguments.durability)
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*[talk(thread) for thread in threads])


async def bring_on(made: Sequence[Any], threads: Sequence[int], turns: range) -> None:
    """Add the messages of turns that are not measured, by one checkpoint each thread."""
    if turns:
        for thread in threads:
            graph = made[thread % len(made)]
            values = {"messages": messages_of(thread, turns)}
            await graph.aupdate_state(config(thread), values, as_node="finalize_turn")


async def _check(made: Sequence[Any], threads: Sequence[int], turns: int) -> None:
    for thread in threads:
        state = await made[thread % len(made)].aget_state(config(thread))
        if len(state.values["messages"]) != 4 * turns or state.next:
            raise RuntimeError(f"Thread {thread} has {len(state.values['messages'])} messages, and {state.next} to do")


if __name__ == "__main__":
    given = turn_options(messages=str, savers=int)
    say(uvloop.run(main(given)))
