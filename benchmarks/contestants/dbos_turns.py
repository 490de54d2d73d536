"""DBOS takes turns: a workflow each, a step for each node, in one process, on PostgreSQL.

DBOS keeps workflows, not conversations: these are in the process only, in its favour, and its turns take as long at the
end of one as at its beginning. The workflow's name, input, steps and output are stored.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import uvloop
from dbos import DBOS, DBOSConfig

from benchmarks.contestants.exchanges import exchange_of, said
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.sizes import size_of
from benchmarks.side_by_side.stretches import WARMING_UP, Meter, stretches, turn_options

TABLES = r"^dbos\."

POOL = 20
"""Connections, as many as Threadfold takes; it is also DBOS's own default."""

CONVERSATIONS: dict[int, list[dict[str, Any]]] = {}


@DBOS.step()
async def route_intent(question: str) -> dict[str, Any]:
    exchange = exchange_of(question)
    return {"name": "desk", "args": {"call": exchange.tool, "arguments": dict(exchange.arguments)}}


@DBOS.step()
async def execute_tool(question: str, _call: dict[str, Any]) -> str:
    return exchange_of(question).result


@DBOS.step()
async def generate_response(question: str) -> str:
    return exchange_of(question).answer


@DBOS.step()
async def finalize_turn() -> None:
    return None


@DBOS.workflow()
async def turn(thread: int, question: str) -> str:
    conversation = CONVERSATIONS[thread]
    conversation.append({"role": "user", "content": question})
    call = await route_intent(question)
    conversation.append({"role": "assistant", "tool_calls": [call]})
    result = await execute_tool(question, call)
    conversation.append({"role": "tool", "content": result})
    answer = await generate_response(question)
    conversation.append({"role": "assistant", "content": answer})
    await finalize_turn()
    return answer


async def main(arguments: Namespace) -> Figures:
    config: DBOSConfig = {
        "name": "benchmark",
        "system_database_url": arguments.database,
        "sys_db_pool_size": POOL,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        threads = range(arguments.threads)
        CONVERSATIONS.update({thread: [] for thread in (*threads, -1)})
        await converse([-1], WARMING_UP, [])
        before, meter = await size_of(arguments.database, TABLES), Meter(arguments)
        for stretch in stretches(arguments):
            with meter:
                await converse(threads, stretch, meter.seconds)
        taken = meter.told()
        after = await size_of(arguments.database, TABLES)
        taken["bytes_per_turn"] = (after["bytes"] - before["bytes"]) / taken["turns"]
    finally:
        DBOS.destroy()
    return taken


async def converse(threads: Sequence[int], turns: range, seconds: list[float]) -> None:
    """Take these turns in all threads at the same time, one after the other in each."""

    async def talk(thread: int) -> None:
        for number in turns:
            began = time.perf_counter()
            await turn(thread, said(thread, number))
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*[talk(thread) for thread in threads])


if __name__ == "__main__":
    given = turn_options()
    say(uvloop.run(main(given)))
