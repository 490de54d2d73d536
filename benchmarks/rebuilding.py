"""Building all read models of a large log anew, while events are appended and read.

    .venv/bin/python -m benchmarks.rebuilding [--events 1000000] [--threads 10000]

Serves with one process, then with two, on an embedded PostgreSQL (fsync on). Each time all read models are rebuilt
over HTTP while 500 events a second are appended, and a client asks all the time: an answer that fails, or that knows
less than one before, is counted. In the end the old and the new tables are compared, row by row.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.large_log import append, fill
from benchmarks.reading import build, make_readable
from domain.ids import ThreadId
from domain.log.hash_chain import Head
from infrastructure.embedded.server import EmbeddedPostgres
from migrations.run import migrate
from projections.registry import PROJECTIONS
from tests.chaos.crashes import execute
from tests.e2e.server_process import threadfold

RATE = 500
"""Events a second that are appended meanwhile."""

PAUSE = 0.02
"""Seconds between two questions of the client."""


@dataclass
class Reader:
    """A client that remembers what it was told."""

    client: httpx.AsyncClient
    threads: Sequence[ThreadId]
    chance: random.Random = field(default_factory=lambda: random.Random(3))
    known: dict[str, int] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)

    async def read(self) -> None:
        """Ask, until cancelled."""
        while True:
            thread = self.chance.choice(self.threads)
            await self._ask(f"/v1/threads/{thread}?consistency=eventual", lambda found: {"": found["version"]})
            await self._ask("/v1/usage", lambda found: {"": found["items"][0]["calls"]})
            await self._ask(
                "/v1/analytics/turns?group_by=graph", lambda f: {i["graph"]: i["started"] for i in f["items"]}
            )
            await self._ask(
                "/v1/threads?sort=last_event_at&limit=20",
                lambda found: {f"#{one['thread_id']}": one["version"] for one in found["items"]},
            )

    async def _ask(self, path: str, figures: Any) -> None:
        started = time.perf_counter()
        response = await self.client.get(path)
        self.took.append((time.perf_counter() - started) * 1000)
        if not response.is_success:
            self.failed.append(f"{path}: {response.status_code} {response.text[:200]}")
            return
        for name, figure in figures(response.json()).items():
            key = name if name.startswith("#") else path + name
            if figure < self.known.get(key, 0):
                self.back.append(f"{key}: {figure} after {self.known[key]}")
            self.known[key] = figure
        await asyncio.sleep(PAUSE)


@asynccontextmanager
async def serving(url: str, directory: Path, processes: int) -> AsyncIterator[httpx.AsyncClient]:
    """Serve with some processes, and give a client of the first."""
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(processes):
            home = directory / f"{processes}-{number}"
            home.mkdir()
            servers.append(await stack.enter_async_context(threadfold(home, DATABASE_URL=url)))
        client = httpx.AsyncClient(base_url=servers[0].url, timeout=60, trust_env=False)
        yield await stack.enter_async_context(client)


async def caught_up(client: httpx.AsyncClient) -> None:
    """Wait until every instance has read everything."""
    while any(i["lag"] for view in (await client.get("/v1/projections")).json() for i in view["instances"]):
        await asyncio.sleep(0.2)


async def rebuild(url: str, directory: Path, ends: dict[ThreadId, Head], processes: int) -> None:
    """Build all read models anew, and say how that went."""
    async with serving(url, directory, processes) as client:
        await caught_up(client)
        reader, done = Reader(client, list(ends)[-500:]), asyncio.Event()
        reading = asyncio.create_task(reader.read())
        appending = asyncio.create_task(append(url, ends, RATE, done))
        started, done_at_start = time.perf_counter(), sum(head.version for head in ends.values())
        names = [projection.name for projection in PROJECTIONS]
        (await client.post("/v1/projections/rebuild", json={"projections": names})).raise_for_status()
        lags = []
        while True:
            instances = [i for view in (await client.get("/v1/projections")).json() for i in view["instances"]]
            lags.append(max(i["lag"] for i in instances if i["status"] == "serving"))
            if not any(i["status"] == "building" for i in instances):
                break
            await asyncio.sleep(0.5)
        seconds = time.perf_counter() - started
        await asyncio.sleep(2)  # reads after the switch count, too
        done.set()
        appended = await appending
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await caught_up(client)
        different = await differences(url)
        for name in names:
            (await client.post(f"/v1/projections/{name}/drop")).raise_for_status()
    p50, p99 = statistics.median(reader.took), statistics.quantiles(reader.took, n=100)[98]
    print(
        f"rebuilt with {processes} process(es): {done_at_start / seconds:,.0f} events/s in {seconds:.0f} s, while "
        f"{appended / (seconds + 2):.0f} events/s were appended; what serves lagged {max(lags):,} at most"
    )
    print(
        f"  {len(reader.took):,} reads meanwhile, p50 {p50:.1f} ms, p99 {p99:.1f} ms: {len(reader.failed)} failed, "
        f"{len(reader.back)} went back in time; rows that differ between old and new: {different}"
    )
    for sentence in (*reader.failed[:5], *reader.back[:5]):
        print(f"  {sentence}")


async def differences(url: str) -> int:
    """Count the rows that the instances which serve, and those which did, do not have in common."""
    rows = await execute(url, "SELECT projection, id, status, tables FROM read_models.instances ORDER BY id")
    ids = {(row["projection"], row["status"]): row["id"] for row in rows}
    found = 0
    for row in rows:
        if row["status"] == "serving":
            for table in row["tables"]:
                new, old = f"{table}_{row['id']}", f"{table}_{ids[row['projection'], 'kept']}"
                for one, other in ((new, old), (old, new)):
                    [counted] = await execute(
                        url,
                        f"SELECT count(*) FROM (SELECT t::text FROM read_models.{one} AS t EXCEPT ALL "
                        f"SELECT t::text FROM read_models.{other} AS t) AS different",
                    )
                    found += counted[0]
    return found


async def main(events: int, threads: int) -> None:
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            url = server.url()
            await migrate(url)
            ends = await fill(url, events, threads)
            await build(url)
            for processes in (1, 2):
                await rebuild(url, Path(name), ends, processes)
        finally:
            await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=10_000)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.threads))
