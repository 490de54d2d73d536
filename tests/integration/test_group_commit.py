"""Groups of appends on PostgreSQL: bounded, divisible, and each append\'s fate its own."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from domain.errors import Overloaded, VersionConflict
from domain.ids import SLICES, Position, Slice, ThreadId, Version
from domain.log.hash_chain import EMPTY_HEAD, Head
from domain.ports.log import Append
from infrastructure.postgres.log.append import Storing
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.log.group_commit import MAX_GROUP_APPENDS, GroupCommit
from infrastructure.postgres.pool import open_pool
from tests.streams import a_command, appending, new_thread, numbered
from tests.support.http import running_api


class Watched:
    """A pool that counts statements, and can hold them up."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.groups: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    def is_closing(self) -> bool:
        return False

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        if "INSERT INTO events" in statement:
            self.groups.append(len(arguments[0]))
        await self.open.wait()
        return await self._pool.fetch(statement, *arguments)


async def outcomes(appender: GroupCommit, appends: Sequence[Append]) -> list[Position | BaseException]:
    return await asyncio.gather(*[appender.append(append) for append in appends], return_exceptions=True)


async def stored(pool: asyncpg.Pool, thread_id: ThreadId) -> int:
    return len(await PostgresEventStore(pool).read(thread_id, Version(0)))


async def test_what_comes_while_others_are_stored_shares_a_statement(pool: asyncpg.Pool) -> None:
    watched = Watched(pool)
    appends = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(300)]
    appender = GroupCommit(watched)
    assert all(isinstance(position, int) for position in await outcomes(appender, appends[:1]))
    assert watched.groups == [1], "nothing waits for company"
    assert all(isinstance(position, int) for position in await outcomes(appender, appends[1:]))
    full, rest = divmod(299, MAX_GROUP_APPENDS)
    assert watched.groups == [1, *[MAX_GROUP_APPENDS] * full, rest], "who comes at the same time is there"


async def test_too_many_are_refused_and_those_that_wait_are_stored(pool: asyncpg.Pool) -> None:
    watched = Watched(pool)
    watched.open.clear()
    appender = GroupCommit(watched, limit=10)
    appends = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(35)]
    waiting = []
    for first, last in ((0, 5), (5, 10), (10, 35)):
        waiting.append(asyncio.create_task(outcomes(appender, appends[first:last])))
        await asyncio.sleep(0.05)
    watched.open.set()
    results = [result for each in waiting for result in await each]
    refused = [append for append, result in zip(appends, results, strict=True) if isinstance(result, Overloaded)]
    assert len(refused) == 35 - 2 * 5 - 10, "two groups were under way, ten appends waited"
    assert sum([await stored(pool, append.thread_id) for append in refused]) == 0
    assert len([result for result in results if isinstance(result, int)]) == 20


async def test_a_full_queue_is_a_503_that_says_when_to_come_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_api(database_url=database_url) as api:
        thread = await api.opened()

        async def full(_: Append) -> Position:
            raise Overloaded

        monkeypatch.setattr(api.service.runtime.repository.store, "append", full)
        refused = await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": 1}})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json()["type"] == "urn:threadfold:overloaded"


async def test_what_postgresql_cannot_take_fails_its_own_caller_only(pool: asyncpg.Pool) -> None:
    good = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(10)]
    bad = appending(new_thread(), EMPTY_HEAD, "not JSON")
    conflict = appending(new_thread(), Head(Version(3), bytes(32), good[0].head.at), "{}")
    results = await outcomes(GroupCommit(pool), [*good[:5], bad, *good[5:], conflict])
    assert [type(result) for result in results if not isinstance(result, int)] == [
        asyncpg.InvalidTextRepresentationError,
        VersionConflict,
    ]
    assert [await stored(pool, append.thread_id) for append in good] == [1] * 10


async def test_of_a_command_that_decides_differently_twice_one_is_stored(database_url: str, pool: asyncpg.Pool) -> None:
    """One process found nothing to do and only remembers the command; another one, at the same version, acts."""
    opened, command = appending(new_thread(), EMPTY_HEAD, "{}"), a_command()
    other = appending(new_thread(), EMPTY_HEAD, "{}")
    appender = GroupCommit(pool)
    await outcomes(appender, [opened])
    async with pool.acquire() as connection, connection.transaction():
        assert await Storing(connection).store([appending(opened.thread_id, opened.head, command=command)]) == [0]
        acting = appending(opened.thread_id, opened.head, "{}", command=command)
        both = asyncio.create_task(outcomes(appender, [acting, other]))
        await asyncio.sleep(0.2)
    refused, stored_beside = await both
    assert isinstance(refused, VersionConflict)
    assert isinstance(stored_beside, int)
    assert await stored(pool, opened.thread_id) == 1
    assert len(await pool.fetch("SELECT FROM commands WHERE command_id = $1", command.id)) == 1


async def test_groups_that_share_threads_do_not_wait_in_a_circle(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    opened = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(64)]
    await outcomes(GroupCommit(pool), opened)
    heads = {append.thread_id: append.head for append in opened}
    for _ in range(10):
        appends = [appending(thread_id, head, "{}") for thread_id, head in heads.items()]
        there, back = await asyncio.gather(Storing(pool).store(appends), Storing(pool).store(appends[::-1]))
        assert [one is None for one in there] == [other is not None for other in back[::-1]], "one of both has it"
        heads = {append.thread_id: append.head for append in appends}
    await owner.execute("SELECT pg_stat_force_next_flush()")
    deadlocks = await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


async def test_a_caller_who_leaves_takes_nobody_along(pool: asyncpg.Pool) -> None:
    watched = Watched(pool)
    watched.open.clear()
    appender = GroupCommit(watched)
    appends = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(5)]
    tasks = [asyncio.create_task(appender.append(append)) for append in appends]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    tasks[3].cancel()
    watched.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, int) for result in results] == [False, True, True, False, True]
    await appender.close()


async def test_appends_of_one_thread_are_stored_one_after_the_other(pool: asyncpg.Pool) -> None:
    appender, thread_id = GroupCommit(pool), new_thread()
    chain = [appending(thread_id, EMPTY_HEAD, "{}")]
    for _ in range(20):
        chain.append(appending(thread_id, chain[-1].head, "{}"))
    assert all(isinstance(position, int) for position in await outcomes(appender, chain))
    assert await stored(pool, thread_id) == 21


async def test_groups_of_several_pools_over_all_slices_lose_and_double_nothing(database_url: str) -> None:
    """Each group takes the locks of many slices, while the others do: nobody is refused but by a newer version."""
    chance, rounds, threads = random.Random(7), 12, 40

    async def write(appender: GroupCommit) -> int:
        heads: dict[ThreadId, Head] = {new_thread(): EMPTY_HEAD for _ in range(threads)}
        events = 0
        for _ in range(rounds):
            appends = [appending(id_, head, *numbered(chance.randint(1, 3))) for id_, head in heads.items()]
            results = await outcomes(appender, appends)
            assert [result for result in results if isinstance(result, BaseException)] == []
            heads = {append.thread_id: append.head for append in appends}
            events += sum(len(append.records) for append in appends)
        return events

    pools = [await open_pool(database_url, max_size=3) for _ in range(4)]
    try:
        written = await asyncio.gather(*[write(GroupCommit(pool)) for pool in pools])
        store = PostgresEventStore(pools[0])
        found = 0
        for number in range(SLICES):
            records = await store.read_slice(Slice(number), Position(0), 10_000)
            assert [record.position for record in records] == list(range(1, len(records) + 1))
            found += len(records)
        assert found == sum(written)
    finally:
        for pool in pools:
            await pool.close()
