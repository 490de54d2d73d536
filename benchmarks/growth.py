"""What gets slower as the log grows: each thing that is done all the time, at several sizes of the same log.

.venv-bench/bin/python -m benchmarks.growth [--sizes 10000,1000000,10000000] [--directory FOLDER]

Fills an embedded PostgreSQL up to each size, has the read models catch up, VACUUMs, and measures. Needs about 1.6 kB of
disk an event, the WAL and the read models included, which is checked first; everything is removed at the end. The last
lines say how many times as long each thing takes at the largest size as at the smallest.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import uvloop

from benchmarks import bulk_log, projectors
from benchmarks.append_load import numbers
from benchmarks.contestants.rehydrate_threadfold import journal_on
from benchmarks.side_by_side.__main__ import RESULTS
from benchmarks.side_by_side.alternate import Played
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.figures import Figures, quantiles
from benchmarks.side_by_side.postgres import one_server
from benchmarks.side_by_side.ratios import Figure
from domain.ids import DEFAULT_TENANT, SLICES, Position, Version, slice_of
from domain.ports.log import ThreadRow
from infrastructure.postgres.log.event_store import PostgresEventStore, thread_of
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from migrations.run import migrate
from projections import threads

NAME = "Threadfold"

SIZES = (10_000, 1_000_000, 10_000_000)

BYTES = 1_600
"""Of disk that an event may need at most, while the log is filled."""

ROUNDS = 5
TIMES = 100
SECONDS = 0.5
PAGE = 50
READ = 10
SOME = 2_000
"""Threads that are looked at, of a quarter of the slices."""

USED = """
SELECT (SELECT sum(head) FROM slices)::bigint,
       (SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest($1::text[]) AS name)::bigint
"""

SOME_THREADS = """
SELECT tenant, thread_id, version, hash, at, opened_at, in_turn, waiting, base
  FROM threads
 WHERE slice = ANY ($1::smallint[]) AND opened_at < now() - interval '1 hour'
 LIMIT $2
"""
"""Those that were filled in: what is appended meanwhile has no snapshots."""

PLACES = """
SELECT opened_at, thread_id
  FROM (SELECT opened_at, thread_id FROM threads WHERE tenant = $1 ORDER BY opened_at, thread_id OFFSET $2) AS later
 ORDER BY random()
 LIMIT $3
"""
"""Places in the list of threads that have a whole page after them: in a small log, others would give less to read."""

FIGURES = (
    Figure("append", "append, events/s"),
    Figure("now_p50_ms", "state now ms", "less", 2),
    Figure("version_p50_ms", "at a version ms", "less", 2),
    Figure("instant_p50_ms", "at an instant ms", "less", 2),
    Figure("page_p50_ms", f"page of {PAGE} summaries ms", "less", 2),
    Figure("slice_p50_ms", f"read_slice ms, {READ} events", "less", 2),
    Figure("step", "catching up, events/s"),
    Figure("bytes", "bytes/event on disk", "less"),
)


@dataclass
class Measuring:
    """Does each thing some times, on threads and slices that are drawn anew."""

    pool: asyncpg.Pool
    chance: random.Random
    rows: Sequence[ThreadRow]
    places: Sequence[tuple[datetime, UUID]]

    async def all(self) -> Figures:
        """Time all that reads."""
        figures = Figures()
        questions: dict[str, Callable[[], Awaitable[object]]] = {
            "now": self._now,
            "version": self._version,
            "instant": self._instant,
            "page": self._page,
            "slice": self._slice,
        }
        for name, ask in questions.items():
            took = []
            for _ in range(TIMES):
                began = time.perf_counter()
                await ask()
                took.append(time.perf_counter() - began)
            figures |= {f"{name}_{key}": value for key, value in quantiles(took).items()}
        return figures

    async def _now(self) -> object:
        return await journal_on(self.pool).load(self._any().thread_id)

    async def _version(self) -> object:
        row = self._any()
        return await journal_on(self.pool).load_at(row.thread_id, Version(self.chance.randint(1, row.head.version)))

    async def _instant(self) -> object:
        row, repository = self._any(), journal_on(self.pool)
        at = row.opened_at + self.chance.random() * (row.head.at - row.opened_at)
        return await repository.load_at(row.thread_id, await repository.version_at(row.thread_id, at))

    async def _page(self) -> object:
        page = threads.listing(DEFAULT_TENANT, after=self.chance.choice(self.places), limit=PAGE)
        return await PostgresReadModels(self.pool).select(page)

    async def _slice(self) -> object:
        store, slice_ = PostgresEventStore(self.pool), slice_of(self._any().thread_id)  # of a small log, most are empty
        head = await store.slice_head(slice_)
        return await store.read_slice(slice_, Position(self.chance.randint(0, max(head - READ, 0))), READ)

    def _any(self) -> ThreadRow:
        return self.chance.choice(self.rows)


async def measured(url: str, seed: int) -> Figures:
    """Time all that reads, on some threads."""
    pool, chance = await open_pool(url, max_size=2), random.Random(seed)
    slices = chance.sample(range(SLICES), SLICES // 4)
    rows = [thread_of(row) for row in await pool.fetch(SOME_THREADS, slices, SOME)]
    places = [tuple(place) for place in await pool.fetch(PLACES, DEFAULT_TENANT, PAGE, SOME)]
    figures = await Measuring(pool, chance, rows, places).all()
    await pool.close()
    return figures


async def settled(url: str) -> None:
    """Do what autovacuum and the next checkpoint would do, so that they do not begin while something is measured."""
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


def around(url: str, number: int) -> Figures:
    """Append as fast as one process can, have that read, and time all that reads."""
    appended = projectors.appended(url, 0.0, SECONDS)
    step = projectors.timed(url, 1, "caught_up")
    return {"append": appended["rate"], "step": step["rate"], **uvloop.run(measured(url, number))}


def grown(url: str, size: int, events: int) -> Played:
    """Fill the log up to a size, and measure."""
    bulk_log.fill(url, size - events)
    caught = projectors.timed(url, 2, "caught_up")
    print(f"The read models have caught up, {caught['rate']:,.0f} events/s with two processes", flush=True)
    uvloop.run(settled(url))
    used = uvloop.run(bytes_of(url))
    rounds = [{NAME: {**around(url, number), "bytes": used}} for number in range(ROUNDS)]
    return Played(f"{size:,} events", [NAME], rounds)


async def bytes_of(url: str) -> float:
    """Return what an event takes on disk in the log: its row, indexes and its share of snapshots and threads."""
    connection = await asyncpg.connect(url)
    events, size = await connection.fetchrow(USED, ["events", "threads", "snapshots"])
    await connection.close()
    return float(size / events)


async def count(url: str) -> int:
    connection = await asyncpg.connect(url)
    found: int = await connection.fetchval("SELECT sum(head)::bigint FROM slices")
    await connection.close()
    return found


def compare(bench: Bench, sizes: Sequence[int]) -> None:
    """Write `growth`."""
    with bench.server.database("growth") as url:
        asyncio.run(migrate(url))
        asyncio.run(projectors.forget(url))
        cases = [grown(url, size, asyncio.run(count(url))) for size in sorted(sizes)]
    bench.report("growth", "What the log's size costs", FIGURES, cases, verdicts(cases[0], cases[-1]))


def verdicts(small: Played, large: Played) -> Sequence[str]:
    """Compare the largest log with the smallest."""
    found = []
    for figure in FIGURES:
        one, other = (statistics.median(played.values(NAME, figure.key)) for played in (small, large))
        times = one / other if figure.better == "more" else other / one
        found.append(f"{figure.heading}: {times:.2f} times as much at {large.name} as at {small.name}")
    return found


def check_room(directory: Path, events: int) -> None:
    """Refuse to fill a disk."""
    free, needed = shutil.disk_usage(directory).free, events * BYTES
    print(f"{needed / 1e9:.1f} GB of disk may be needed, {free / 1e9:.1f} GB are free")
    if needed > free * 0.9:
        sys.exit("That is too little: name another folder with --directory, or smaller --sizes.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=SIZES)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    check_room(given.directory, max(given.sizes))
    tempfile.tempdir = str(given.directory)
    began = time.monotonic()
    with one_server() as server:
        compare(Bench(server, ROUNDS, "full", given.results), given.sizes)
    print(f"All of it took {(time.monotonic() - began) / 60:.1f} minutes; the results are in {given.results}")


if __name__ == "__main__":
    main()
