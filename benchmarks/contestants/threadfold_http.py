"""Threadfold as a service: `threadfold serve`, asked over HTTP.

With `--mode wait` a request is answered with the finished turn. With `--mode invoke` it is answered at once, the turns
of a conversation wait for each other, and it counts when the last of all turns has ended.
"""

import asyncio
import uuid
from argparse import Namespace
from collections.abc import Sequence

import asyncpg
import uvloop

from benchmarks.contestants.exchanges import said
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.load import HOST, drive, post
from benchmarks.side_by_side.serving import free_port, load_options, loaded, serving

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
    }
    workers = ["--workers", str(arguments.processes)] if arguments.processes > 1 else []
    connection = await asyncpg.connect(arguments.database)

    async def waiting(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
        threads = [uuid.uuid4() for _ in range(clients)]
        opened = [post("/v1/threads", {"thread_id": str(thread), "graph": "airline"}) for thread in threads]
        await drive(port, [opened[first::8] for first in range(8)])
        return [
            [post(f"/v1/threads/{thread}/turns?wait=true", {"user_input": said(at, turn)}) for turn in range(turns)]
            for at, thread in enumerate(threads)
        ]

    async def invoking(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
        named = [{"thread_id": str(uuid.uuid4()), "graph": "airline", "strategy": "enqueue"} for _ in range(clients)]
        return [
            [post("/v1/agent/invoke", {**thread, "user_input": said(at, turn)}) for turn in range(turns)]
            for at, thread in enumerate(named)
        ]

    async def settle(turns: int) -> None:
        while await connection.fetchval(ENDED) < turns:
            await asyncio.sleep(PAUSE)

    try:
        async with serving("api", ["serve", *workers], port, settings) as service:
            if arguments.mode == "wait":
                return await loaded(arguments, service, waiting, 200, settle)
            return await loaded(arguments, service, invoking, 202, settle)
    finally:
        await connection.close()


if __name__ == "__main__":
    given = load_options(mode=str)
    say(uvloop.run(main(given)))
