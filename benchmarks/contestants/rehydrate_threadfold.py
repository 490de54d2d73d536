"""Loads threads of several ages, now and as they were: through the journal, as a process that serves them would.

`--do fill` builds the threads; `--do ask` measures. *Cold*: by a journal that has never seen the thread, on a pool that
is open. *Fresh*: the connection is a new one as well, and its opening counts. PostgreSQL's buffers are as they are.
"""

import argparse
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import uvloop

from benchmarks.append_load import numbers
from benchmarks.old_threads import Building, Ticking, how_many, planned, thread_named
from benchmarks.side_by_side.figures import Figures, options, quantiles, say
from domain.application.journal import Journal
from domain.ids import ThreadId, Version
from domain.ports.log import ThreadRow
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.postgres.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.settings import Settings
from migrations.run import migrate

EVERY = Settings.model_fields["snapshot_every"].default

FRESH = 5
"""New connections for each age, and process."""


def journal_on(pool: asyncpg.Pool) -> Journal:
    """Make a journal without a memory."""
    store, snapshots = PostgresEventStore(pool), PostgresSnapshotStore(pool)
    return Journal(store, snapshots, Ticking(), fingerprint=fold_fingerprint(), snapshot_every=EVERY)


async def fill(database: str, sizes: Sequence[int]) -> Figures:
    """Build the threads."""
    await migrate(database)
    pool, began = await open_pool(database, max_size=4), time.perf_counter()
    journal = journal_on(pool)
    for size, number in planned(sizes):
        await Building(journal, EVERY).build(size, number)
    await pool.execute("ANALYZE")
    found = await pool.fetchval("SELECT count(*) FROM events")
    await pool.close()
    return {"events": found, "seconds": time.perf_counter() - began}


@dataclass
class Asking:
    """Asks for threads of one age."""

    pool: asyncpg.Pool
    size: int
    times: int
    chance: random.Random

    async def all(self, database: str) -> Figures:
        """Ask every question so many times. A place in the past is another one each time."""
        rows = {thread: await self._row(thread) for thread in self._threads()}
        places = [(thread, self._version(rows[thread].head.version)) for thread in self._any(self.times)]
        instants = [(thread, self._instant(rows[thread])) for thread in self._any(self.times)]
        warm = journal_on(self.pool)
        for thread in rows:
            await warm.load(thread)

        async def at_instant(thread: ThreadId, at: datetime) -> None:
            journal = journal_on(self.pool)
            await journal.load_at(thread, await journal.version_at(thread, at))

        figures = {
            **await self._fresh(database),
            **await timed("cold", lambda t: journal_on(self.pool).load(t), [(t,) for t in self._any(self.times)]),
            **await timed("warm", warm.load, [(thread,) for thread in self._any(self.times)]),
            **await timed("version", lambda t, v: journal_on(self.pool).load_at(t, v), places),
            **await timed("instant", at_instant, instants),
        }
        return {f"{name} {self.size}": figure for name, figure in figures.items()}

    async def _fresh(self, database: str) -> Figures:
        async def load(thread: ThreadId) -> None:
            pool = await open_pool(database, max_size=1)
            await journal_on(pool).load(thread)
            pool.terminate()

        return await timed("fresh", load, [(thread,) for thread in self._any(FRESH)])

    def _threads(self) -> Sequence[ThreadId]:
        return [thread_named(self.size, number) for number in range(how_many(self.size))]

    def _any(self, times: int) -> Sequence[ThreadId]:
        return [self.chance.choice(self._threads()) for _ in range(times)]

    async def _row(self, thread: ThreadId) -> ThreadRow:
        row = await PostgresEventStore(self.pool).thread(thread)
        if row is None:
            raise RuntimeError(f"Thread {thread} was not built")
        return row

    def _instant(self, row: ThreadRow) -> datetime:
        return row.opened_at + self.chance.random() * (row.head.at - row.opened_at)

    def _version(self, last: Version) -> Version:
        return Version(self.chance.randint(1, last))


async def timed(name: str, ask: Callable[..., Awaitable[object]], places: Sequence[tuple[Any, ...]]) -> Figures:
    """Ask at each place, one after the other."""
    took = []
    for place in places:
        began = time.perf_counter()
        await ask(*place)
        took.append(time.perf_counter() - began)
    return {f"{name}_{key}": value for key, value in quantiles(took).items()}


async def main(arguments: argparse.Namespace) -> Figures:
    if arguments.do == "fill":
        return await fill(arguments.database, arguments.sizes)
    pool, figures = await open_pool(arguments.database, max_size=4), Figures()
    for size in arguments.sizes:
        asking = Asking(pool, size, arguments.times, random.Random(arguments.seed))
        figures |= await asking.all(arguments.database)
    await pool.close()
    return figures


if __name__ == "__main__":
    say(uvloop.run(main(options(do=str, sizes=numbers, times=int, seed=int))))
