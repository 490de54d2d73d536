"""When the connection is lost in the middle of an append, the caller is told the truth."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from domain.errors import StoreUnavailable, VersionConflict
from domain.ids import Position, Version
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.log import Append
from infrastructure.postgres import retry
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.log.group_commit import GroupCommit
from infrastructure.postgres.pool import close_pool, open_pool
from tests.streams import a_command, appending, new_thread


class Unreliable:
    """A pool whose statements fail as `faults` say, one after the other: before they run, or after."""

    def __init__(self, pool: asyncpg.Pool, *faults: tuple[str, Exception]) -> None:
        self._pool = pool
        self._faults = list(faults)

    def is_closing(self) -> bool:
        return False

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        when, error = self._faults.pop(0) if self._faults else ("never", None)
        if when == "before" and error:
            raise error
        rows = await self._pool.fetch(statement, *arguments)
        if when == "after" and error:
            raise error
        return rows


async def append_one(pool: Any, append: Append) -> Position:
    return await GroupCommit(pool).append(append)


ERRORS: list[Callable[[], Exception]] = [
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    ConnectionResetError,
    TimeoutError,
]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_PAUSES_S", (0.0,) * 5)


@pytest.fixture
async def opened(pool: asyncpg.Pool) -> Append:
    append = appending(new_thread(), EMPTY_HEAD, "{}")
    await PostgresEventStore(pool).append(append)
    return append


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_append_is_stored_once_and_its_position_is_told(
    pool: asyncpg.Pool, opened: Append, when: str, error: Callable[[], Exception]
) -> None:
    append = appending(opened.thread_id, opened.head, "{}", "{}", command=a_command())

    assert await append_one(Unreliable(pool, (when, error())), append) == 2

    assert len(await PostgresEventStore(pool).read(opened.thread_id, Version(0))) == 3


async def test_the_answer_may_get_lost_again_and_again(pool: asyncpg.Pool, opened: Append) -> None:
    append = appending(opened.thread_id, opened.head, "{}", command=a_command())
    faults = [("after", ConnectionResetError())] * 4

    assert await append_one(Unreliable(pool, *faults), append) == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_command_without_events_is_found_too(pool: asyncpg.Pool, opened: Append, when: str) -> None:
    append = appending(opened.thread_id, opened.head, command=a_command())

    assert await append_one(Unreliable(pool, (when, ConnectionResetError())), append) == 0


async def test_what_was_stored_without_an_answer_is_found_one_by_one_too(pool: asyncpg.Pool, opened: Append) -> None:
    append = appending(opened.thread_id, opened.head, "{}", command=a_command())
    faults = [("after", ConnectionResetError()), ("before", asyncpg.UniqueViolationError("as if for another one"))]

    assert await append_one(Unreliable(pool, *faults), append) == 2


async def test_a_conflict_is_still_a_conflict(pool: asyncpg.Pool, opened: Append) -> None:
    winner = appending(opened.thread_id, opened.head, '"winner"')
    await PostgresEventStore(pool).append(winner)

    with pytest.raises(VersionConflict):
        await append_one(
            Unreliable(pool, ("before", ConnectionResetError())), appending(opened.thread_id, opened.head, '"loser"')
        )


async def test_what_the_server_rolled_back_is_tried_again(pool: asyncpg.Pool, opened: Append) -> None:
    faults = [("before", asyncpg.SerializationError()), ("before", asyncpg.DeadlockDetectedError())]

    assert await append_one(Unreliable(pool, *faults), appending(opened.thread_id, opened.head, "{}")) == 2


async def test_trying_ends(pool: asyncpg.Pool, opened: Append) -> None:
    always = Unreliable(pool, *[("before", ConnectionRefusedError())] * 100)

    with pytest.raises(StoreUnavailable):
        await append_one(always, appending(opened.thread_id, opened.head, "{}"))


async def test_a_value_that_does_not_fit_is_no_reason_to_try_again(pool: asyncpg.Pool, opened: Append) -> None:
    append = appending(opened.thread_id, opened.head, "not JSON")

    with pytest.raises(asyncpg.DataError):
        await append_one(pool, append)


async def test_backends_that_are_killed_lose_and_double_nothing(
    pool: asyncpg.Pool, owner: asyncpg.Connection, opened: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing: every backend is terminated again and again while appends are under way."""
    monkeypatch.setattr(retry, "RETRY_PAUSES_S", (0.02,) * 100)
    store = PostgresEventStore(pool)
    heads = []

    async def write() -> None:
        append = appending(new_thread(), EMPTY_HEAD, "{}")
        for _ in range(40):
            await store.append(append)
            append = appending(append.thread_id, append.head, "{}")
        heads.append(append.expected)

    async def kill() -> None:
        while True:
            await owner.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
            )
            await asyncio.sleep(0.2)  # long enough to connect and to append a little

    killer = asyncio.create_task(kill())
    try:
        await asyncio.gather(*(write() for _ in range(8)))
    finally:
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)

    assert [head.version for head in heads] == [40] * 8
    assert await owner.fetchval("SELECT count(*) FROM events") == 8 * 40 + 1
    assert opened


async def test_a_pool_is_closed_though_a_statement_does_not_end(database_url: str) -> None:
    pool = await open_pool(database_url, max_size=2)
    stuck = asyncio.create_task(pool.fetch("SELECT pg_sleep(60)"))
    while not pool.get_size() - pool.get_idle_size():
        await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        await close_pool(pool, patience=0.3)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await stuck
