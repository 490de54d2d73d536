"""Threadfold as a service: `threadfold serve`, asked over HTTP.

With `--mode wait` a request is answered with the finished turn. With `--mode invoke` it is answered at once, the turns
of a conversation wait for each other, and it counts when the last of all turns has ended. Conversations have `--age`
turns before the first that is measured. `--recall off` is as for `threadfold_turns`.
"""

import asyncio
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence

import asyncpg
import uvloop

from api.services.threads import Service
from benchmarks.contestants.exchanges import said
from benchmarks.contestants.threadfold_turns import bring_on, working
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.load import HOST, drive, post
from benchmarks.side_by_side.serving import free_port, load_options, loaded, serving
from domain.ids import ThreadId

ENDED = "SELECT count(*) FROM events WHERE type = 'TurnCompleted'"

PAUSE = 0.02


async def main(arguments: Namespace) -> Figures:
    port = free_port()
    settings = {
        "DATABASE_URL": arguments.database,
        "AGENTS": "benchmarks.contestants.served:airline",
        "HOST": HOST,
        "PORT": str(port),
        "LOG_LEVEL": "warning",
        "RECALL": arguments.recall,
    }
    workers = ["--workers", str(arguments.processes)] if arguments.processes > 1 else []
    aged = await _aged(arguments)
    connection = await asyncpg.connect(arguments.database)
    before = await connection.fetchval(ENDED) if aged else 0

    async def waiting(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
        threads, first = aged.get(clients, []), arguments.age
        if not threads:
            threads, first = [ThreadId(uuid.uuid4()) for _ in range(clients)], 0
            opened = [post("/v1/threads", {"thread_id": str(thread), "graph": "airline"}) for thread in threads]
            await drive(port, [opened[place::8] for place in range(8)])
        return [
            [
                post(f"/v1/threads/{thread}/turns?wait=true", {"user_input": said(at, turn)})
                for turn in range(first, first + turns)
            ]
            for at, thread in enumerate(threads)
        ]

    async def invoking(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
        named = [{"thread_id": str(uuid.uuid4()), "graph": "airline", "strategy": "enqueue"} for _ in range(clients)]
        return [
            [post("/v1/agent/invoke", {**thread, "user_input": said(at, turn)}) for turn in range(turns)]
            for at, thread in enumerate(named)
        ]

    async def settle(turns: int) -> None:
        while await connection.fetchval(ENDED) < before + turns:
            await asyncio.sleep(PAUSE)

    try:
        async with serving("api", ["serve", *workers], port, settings) as service:
            if arguments.mode == "wait":
                return await loaded(arguments, service, waiting, 200, settle)
            return await loaded(arguments, service, invoking, 202, settle)
    finally:
        await connection.close()


async def _aged(arguments: Namespace) -> Mapping[int, Sequence[ThreadId]]:
    """Make conversations of so many turns, for each number of clients; none where they are to be young."""
    if not arguments.age:
        return {}
    options = Namespace(database=arguments.database, durability="sync", recall="off")
    async with working(options) as runtime:
        made = {clients: [ThreadId(runtime.new_id()) for _ in range(clients)] for clients, _ in arguments.clients}
        for threads in made.values():
            await bring_on(Service(runtime), threads, range(arguments.age))
    return made


if __name__ == "__main__":
    given = load_options(mode=str, age=int, recall=str)
    say(uvloop.run(main(given)))
