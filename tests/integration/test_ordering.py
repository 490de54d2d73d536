"""A reader who follows a slice misses nothing, though writers are slow, roll back, and race."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from itertools import chain, count, islice
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from domain.ids import Position, Slice, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, Record, check_chain
from domain.ports.log import Append
from infrastructure.postgres.log.append import Storing
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from tests.streams import a_command, appending, numbered, threads_of

WRITERS, THREADS, SLICES_USED, ROUNDS = 32, 200, 4, 12
ENOUGH = 20  # of each way in which an append can end


async def append_alone(connection: asyncpg.Connection | asyncpg.Pool, append: Append) -> Position | None:
    (position,) = await Storing(connection).store([append])
    return position


class Writers:
    """Append to random threads, each in a transaction that waits before its end, and often rolls back."""

    def __init__(self, pool: asyncpg.Pool, threads: Sequence[ThreadId]) -> None:
        self.pool = pool
        self.threads = threads
        self.heads: dict[ThreadId, Head] = {}
        self.committed = self.refused = self.rolled_back = 0
        self._random = random.Random(4711)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._write())

    async def _write(self) -> None:
        """Write some rounds, and then on until each way to end was seen: how many race depends on the machine."""
        for number in count():
            if number >= ROUNDS and min(self.committed, self.refused, self.rolled_back) > ENOUGH:
                return
            thread_id = self._random.choice(self.threads)
            payloads = numbered(self._random.randint(1, 4))
            append = appending(thread_id, self.heads.get(thread_id, EMPTY_HEAD), *payloads)
            async with self.pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                position = await append_alone(connection, append)
                await asyncio.sleep(self._random.choice([0, 0, 0.001, 0.005]))
                if position is None or self._random.random() < 0.3:
                    await transaction.rollback()
                    self.refused += position is None
                    self.rolled_back += position is not None
                    continue
                await transaction.commit()
            self.heads[thread_id] = append.head
            self.committed += len(payloads)


async def follow(store: PostgresEventStore, slice_: Slice, seen: list[Record]) -> None:
    """Read a slice again and again after the last position that was seen, as a projection does."""
    while True:
        after = seen[-1].position if seen else Position(0)
        seen += await store.read_slice(slice_, after, random.randint(1, 5))
        await asyncio.sleep(0)


@asynccontextmanager
async def an_old_transaction(server: str) -> AsyncIterator[None]:
    """Leave a transaction with an id open in another database: it holds back the horizon of the whole server."""
    name = f"other_{uuid4().hex}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    other = await asyncpg.connect(urlsplit(server)._replace(path=f"/{name}").geturl())
    transaction = other.transaction()
    await transaction.start()
    await other.fetchval("SELECT pg_current_xact_id()")
    yield
    await transaction.rollback()
    await other.close()
    await admin.execute(f"DROP DATABASE {name}")
    await admin.close()


@pytest.mark.parametrize("payloads", [("{}",), ()], ids=["with events", "without events"])
async def test_a_repeat_that_waits_for_the_first_is_refused_when_the_first_commits(
    pool: asyncpg.Pool, payloads: tuple[str, ...]
) -> None:
    """The repeat's snapshot is older than the command, and without events not even the version moves."""
    opened = appending(next(threads_of(Slice(0))), EMPTY_HEAD, "{}")
    await PostgresEventStore(pool).append(opened)
    append = appending(opened.thread_id, opened.head, *payloads, command=a_command())
    async with pool.acquire() as first:
        async with first.transaction():
            assert await append_alone(first, append) is not None
            repeat = asyncio.create_task(append_alone(pool, append))
            await asyncio.sleep(0.2)
            assert not repeat.done()
        assert await repeat is None


async def test_who_waits_for_a_slice_goes_on_after_the_newest_position(pool: asyncpg.Pool) -> None:
    one, other = (appending(thread_id, EMPTY_HEAD, *numbered(3)) for thread_id in islice(threads_of(Slice(0)), 2))
    async with pool.acquire() as first:
        async with first.transaction():
            assert await append_alone(first, one) == 1
            waiting = asyncio.create_task(append_alone(pool, other))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        assert await waiting == 4


@pytest.mark.parametrize("with_an_old_transaction", [False, True], ids=["alone", "beside an old transaction"])
async def test_a_follower_sees_every_event_once_and_in_its_order(
    postgres_server: str, database_url: str, *, with_an_old_transaction: bool
) -> None:
    slices = [Slice(n) for n in range(SLICES_USED)]
    threads = list(chain(*(islice(threads_of(slice_), THREADS // SLICES_USED) for slice_ in slices)))
    seen: dict[Slice, list[Record]] = {slice_: [] for slice_ in slices}
    async with (
        await open_pool(database_url, max_size=WRITERS) as writing,
        await open_pool(database_url, max_size=SLICES_USED) as reading,
        an_old_transaction(postgres_server) if with_an_old_transaction else nullcontext(),
    ):
        store, writers = PostgresEventStore(reading), Writers(writing, threads)
        followers = [asyncio.create_task(follow(store, slice_, seen[slice_])) for slice_ in slices]
        async with asyncio.timeout(60):
            await writers.run()
        async with asyncio.timeout(60):  # what was committed is visible, whoever else has a transaction open
            while sum(map(len, seen.values())) < writers.committed:
                await asyncio.sleep(0.01)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)

    for slice_, records in seen.items():
        assert [record.position for record in records] == list(range(1, len(records) + 1))
        assert {slice_of(record.thread_id) for record in records} == {slice_}
    everything = list(chain(*seen.values()))
    assert len(everything) == writers.committed
    for thread_id, head in writers.heads.items():
        assert check_chain([r for r in everything if r.thread_id == thread_id], EMPTY_HEAD) == head
