"""Building the read models from a large log, and asking them.

    .venv/bin/python -m benchmarks.reading [--events 1000000] [--threads 10000]

Fills an embedded PostgreSQL with turns of thirty days, builds all read models with one process and with two while
another one appends 500 events a second, and times each list and sum over HTTP.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from msgspec.structs import replace

from domain.chain import NOTHING, Head, Record, seal
from domain.codec import Metadata, encode
from domain.ids import DEFAULT_TENANT, SLICES, CommandId, Position, Slice, ThreadId, slice_of
from domain.ports.log import Append, ThreadRow
from infrastructure.embedded import EmbeddedPostgres
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from migrations.run import migrate
from tests.chaos.projections import runner_of, turn
from tests.support.http import running_api

DAYS = 30
APPENDED = 500
"""Events a second that are appended while read models are built."""


async def fill(url: str, events: int, threads: int) -> dict[ThreadId, Head]:
    """Write a log in one go."""
    chance, began = random.Random(1), datetime.now(UTC) - timedelta(days=DAYS)
    positions = [0] * SLICES
    ends: dict[ThreadId, Head] = {}
    pool = await open_pool(url, max_size=2)
    async with PostgresArchive(pool).writing() as writing:
        batch: list[Record] = []
        rows: list[ThreadRow] = []
        written = 0
        for number in range(threads):
            thread_id, head = ThreadId(UUID(int=chance.getrandbits(128))), NOTHING
            at = began + timedelta(days=DAYS * number / threads)
            while head.version < events / threads:
                at += timedelta(minutes=chance.uniform(1, 90))
                metadata = Metadata(command=CommandId(UUID(int=chance.getrandbits(128))), actor=f"user-{number % 100}")
                drafts = [encode(event, metadata) for event in turn(chance, head.version)]
                records, head = seal(DEFAULT_TENANT, thread_id, head, drafts, at)
                slice_ = slice_of(thread_id)
                for record in records:
                    positions[slice_] += 1
                    batch.append(replace(record, position=Position(positions[slice_])))
            rows.append(ThreadRow(DEFAULT_TENANT, thread_id, head, batch[-1].recorded_at, in_turn=False))
            ends[thread_id] = head
            if len(batch) > 20_000 or number == threads - 1:
                await writing.add_events(batch)
                await writing.add_threads(rows)
                written += len(batch)
                batch, rows = [], []
        await writing.set_heads([Position(position) for position in positions])
    await pool.close()
    print(f"{written:,} events in {threads:,} threads")
    return ends


async def append(url: str, ends: dict[ThreadId, Head], done: asyncio.Event) -> int:
    """Append turns at a steady rate until `done`."""
    pool, chance = await open_pool(url, max_size=4), random.Random(2)
    some = list(ends)[-500:]
    store, started, appended = PostgresEventStore(pool), time.monotonic(), 0
    while not done.is_set():
        thread_id = chance.choice(some)
        head = ends[thread_id]
        drafts = [encode(event, Metadata()) for event in turn(chance, head.version)]
        records, after = seal(DEFAULT_TENANT, thread_id, head, drafts, datetime.now(UTC))
        await store.append(Append(DEFAULT_TENANT, thread_id, head, after, records, in_turn=False))
        ends[thread_id] = after
        appended += len(records)
        await asyncio.sleep(max(0.0, started + appended / APPENDED - time.monotonic()))
    await store.close()
    await pool.close()
    return appended


async def build(url: str, part: int, parts: int) -> None:
    """Build whatever is to be built in a part of the slices, until it serves: what each process does."""
    mine = [Slice(number) for number in range(SLICES) if number * parts // SLICES == part]
    async with runner_of(url) as runner:
        runner.held = lambda: mine
        while any(instance.status == "building" for instance in await runner.models.instances()):
            await runner.step()


async def rebuild(url: str, ends: dict[ThreadId, Head], parts: int) -> None:
    """Build all read models anew, in some processes, while events are appended."""
    async with runner_of(url) as runner:
        line = await runner.models.rebuild([projection.shape for projection in runner.projections])
        total = next(one.left for one in await runner.models.lines() if one.id == line)
        done = asyncio.Event()
        appending, started = asyncio.create_task(append(url, ends, done)), time.perf_counter()
        live = [await spawn(f"b.live({url!r})")]
        builders = [await spawn(f"b.build({url!r}, {part}, {parts})") for part in range(parts)]
        for process in builders:
            await process.wait()
        seconds = time.perf_counter() - started
        done.set()
        appended = await appending
        for process in live:
            process.kill()
            await process.wait()
        for instance in await runner.models.instances():
            if instance.status == "kept":
                await runner.models.drop(instance.id)
    rate, speed = total / seconds, appended / seconds
    print(f"rebuilt with {parts} process(es): {rate:,.0f} events/s, while {speed:.0f} events/s were appended")


async def live(url: str) -> None:
    """Keep the serving instances up to date, and leave what is built alone."""
    async with runner_of(url) as runner:
        while True:
            for instance in await runner.models.instances():
                if instance.status == "serving":
                    await runner.advance(instance.line, [Slice(number) for number in range(SLICES)])
                    break
            await asyncio.sleep(0.05)


async def spawn(call: str) -> asyncio.subprocess.Process:
    script = f"import asyncio; import benchmarks.reading as b; asyncio.run({call})"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", script, env={**os.environ, "PYTHONPATH": "."})


QUERIES = (
    "/v1/threads",
    "/v1/threads?sort=last_event_at",
    "/v1/threads?sort=cost",
    "/v1/threads?sort=tokens&order=asc&limit=100",
    "/v1/threads?status=running",
    "/v1/threads?title=What about 7",
    "/v1/threads?search=517",
    "/v1/threads?search=what about",
    "/v1/usage?group_by=model",
    "/v1/usage?bucket=day&group_by=graph,model",
    "/v1/usage?bucket=hour",
    "/v1/analytics/nodes?group_by=node",
    "/v1/analytics/nodes?bucket=day&group_by=node",
    "/v1/analytics/tools?group_by=tool",
    "/v1/analytics/turns?bucket=day",
    "/v1/budgets?window=month",
    "/v1/budgets?window=day&group_by=model",
    "/v1/audit",
    "/v1/audit?actor=user-7",
    "/v1/projections",
    "/v1/instant?at={at}",
)


async def ask(url: str, times: int) -> None:
    """Time each query over HTTP."""
    at = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    async with running_api(database_url=url) as client:
        for query in QUERIES:
            took = []
            for _ in range(times):
                started = time.perf_counter()
                response = await client.get(query.format(at=at))
                took.append((time.perf_counter() - started) * 1000)
                response.raise_for_status()
            p99 = statistics.quantiles(took, n=100)[98]
            print(f"{query:<48} p50 {statistics.median(took):6.1f} ms   p99 {p99:6.1f} ms")


def make_readable(name: str) -> None:
    Path(name).chmod(0o755)


async def main(events: int, threads: int, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            url = server.url()
            await migrate(url)
            ends = await fill(url, events, threads)
            async with runner_of(url) as runner:
                started = time.perf_counter()
                line = (await runner.models.lines())[0]
                while await runner.advance(line.id, [Slice(number) for number in range(SLICES)]):
                    pass
                rate = line.left / (time.perf_counter() - started)
            print(f"built for the first time with 1 process: {rate:,.0f} events/s")
            await ask(url, times)
            for parts in (1, 2):
                await rebuild(url, ends, parts)
        finally:
            await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=100)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.threads, arguments.times))
