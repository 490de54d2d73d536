"""Turns a second through the runtime, with the offline model and the embedded PostgreSQL (fsync on).

    .venv/bin/python -m benchmarks.turns [--threads 16] [--turns 50] [--durability sync]

A turn asks for arithmetic: two model calls and a tool. Prints the rate, and what a turn takes in events and bytes.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg
import uvloop

from api.http.caller import Caller
from api.runtime.composition import open_runtime
from api.services.threads import Service
from domain.ids import ThreadId
from domain.thread.events import Durability
from infrastructure.settings import Settings

TABLES = ("slices", "threads", "events", "commands", "snapshots")


async def main(threads: int, turns: int, durability: Durability, directory: Path) -> None:
    settings = Settings(_env_file=None, data_dir=directory, database_url=None, llm_endpoint=None, durability=durability)  # type: ignore[call-arg]
    async with open_runtime(settings) as runtime, runtime.working():
        service = Service(runtime)
        ids = [ThreadId(runtime.new_id()) for _ in range(threads)]
        url = f"postgresql://postgres@/threadfold?host={directory / 'postgres' / 'cluster'}"
        connection = await asyncpg.connect(url)
        empty = await size(connection)
        started = time.perf_counter()
        await asyncio.gather(*[converse(service, thread_id, turns) for thread_id in ids])
        elapsed = time.perf_counter() - started
        events = await connection.fetchval("SELECT count(*) FROM events")
        bytes_used = await size(connection) - empty
        await connection.close()
    total = threads * turns
    print(f"{threads} threads, {turns} turns each: {total / elapsed:.0f} turns/s")
    print(f"{events / total:.1f} events and {bytes_used / total:.0f} bytes a turn, indexes included")


async def converse(service: Service, thread_id: ThreadId, turns: int) -> None:
    for number in range(turns):
        started = await service.start_turn(thread_id, f"What is {number} + 17?", Caller(), open_with="assistant")
        await service.runtime.turns.wait(started.outcome.loaded.thread_id)


async def size(connection: asyncpg.Connection) -> int:
    sizes = [await connection.fetchval("SELECT pg_total_relation_size($1::regclass)", table) for table in TABLES]
    return sum(sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--durability", choices=["sync", "turn", "async"], default="sync")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-") as name:
        Path(name).chmod(0o755)
        uvloop.run(main(arguments.threads, arguments.turns, arguments.durability, Path(name)))
