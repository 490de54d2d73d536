"""Loads threads of several ages, now and as they were: through the repository, as a process that serves them would.

`--do fill` builds the threads; `--do ask` measures. *Cold*: by a repository that has never seen the thread, on a pool
that is open. *Fresh*: the connection is a new one as well, and its opening counts. PostgreSQL's buffers are as they
are. All questions are asked in one order that is drawn, whatever kind and age they are of.
"""

import argparse
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeAlias

import asyncpg
import uvloop

from benchmarks.append_load import numbers
from benchmarks.old_threads import Building, Ticking, how_many, planned, thread_named
from benchmarks.side_by_side.figures import Figures, options, quantiles, say
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.ports.log import ThreadRow
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.settings import Settings
from migrations.run import migrate

EVERY = Settings.model_fields["snapshot_every"].default

FRESH = 5
"""New connections for each age, and process."""

WARM_UP = 50
"""Questions that are asked before."""

Question: TypeAlias = tuple[str, Callable[[], Awaitable[object]]]
"""Its kind and age, and what asks it."""


def journal_on(pool: asyncpg.Pool) -> ThreadRepository:
    """Make a repository without a memory."""
    store, snapshots = PostgresEventStore(pool), PostgresSnapshotStore(pool)
    return ThreadRepository(store, snapshots, Ticking(), fingerprint=fold_fingerprint(), snapshot_every=EVERY)


async def fill(database: str, sizes: Sequence[int]) -> Figures:
    """Build the threads."""
    await migrate(database)
    pool, began = await open_pool(database, max_size=4), time.perf_counter()
    repository = journal_on(pool)
    for size, number in planned(sizes):
        await Building(repository, EVERY).build(size, number)
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

    async def questions(self, database: str) -> Sequence[Question]:
        """List what to ask, each so many times. A place in the past is another one each time."""
        rows = {thread: await self._row(thread) for thread in self._threads()}
        warm = journal_on(self.pool)
        for thread in rows:
            await warm.load(thread)

        async def fresh(thread: ThreadId) -> None:
            pool = await open_pool(database, max_size=1)
            await journal_on(pool).load(thread)
            pool.terminate()

        async def at_instant(thread: ThreadId, at: datetime) -> None:
            repository = journal_on(self.pool)
            await repository.load_at(thread, await repository.version_at(thread, at))

        found = [(f"fresh {self.size}", partial(fresh, thread)) for thread in self._any(FRESH)]
        for cold, kept, one, other in zip(*(self._any(self.times) for _ in range(4)), strict=True):
            version = self._version(rows[one].head.version)
            found += [
                (f"cold {self.size}", lambda thread=cold: journal_on(self.pool).load(thread)),
                (f"warm {self.size}", partial(warm.load, kept)),
                (f"version {self.size}", lambda thread=one, at=version: journal_on(self.pool).load_at(thread, at)),
                (f"instant {self.size}", partial(at_instant, other, self._instant(rows[other]))),
            ]
        return found

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


async def answered(questions: Sequence[Question]) -> Figures:
    """Ask one after the other, and say how long each kind takes, in milliseconds."""
    took: dict[str, list[float]] = {}
    for name, ask in questions:
        began = time.perf_counter()
        await ask()
        took.setdefault(name, []).append(time.perf_counter() - began)
    figures = Figures()
    for name, seconds in took.items():
        kind, size = name.split()
        figures |= {f"{kind}_{key} {size}": value for key, value in quantiles(seconds).items()}
    return figures


async def main(arguments: argparse.Namespace) -> Figures:
    if arguments.do == "fill":
        return await fill(arguments.database, arguments.sizes)
    pool, chance = await open_pool(arguments.database, max_size=4), random.Random(arguments.seed)
    askings = [Asking(pool, size, arguments.times, chance) for size in arguments.sizes]
    questions = [one for asking in askings for one in await asking.questions(arguments.database)]
    chance.shuffle(questions)  # so that what the machine does meanwhile falls on all ages
    await answered(questions[:WARM_UP])
    figures = await answered(questions)
    await pool.close()
    return figures


if __name__ == "__main__":
    say(uvloop.run(main(options(do=str, sizes=numbers, times=int, seed=int))))
