"""Accesses on PostgreSQL: collected, bounded, and never taken for kept when they are not."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from domain.errors import Overloaded, StoreUnavailable
from domain.ids import Tenant
from domain.ports.access_log import Access
from infrastructure.postgres.access_log import MAX_GROUP_ACCESSES, PostgresAccessLog
from tests.streams import NOON, new_thread


class Watched:
    """A pool that counts what each statement records, and can hold statements up, or fail them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.groups: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    def is_closing(self) -> bool:
        return True

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        self.groups.append(len(arguments[0]))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await self._pool.fetch(statement, *arguments)


@pytest.fixture
def watched(pool: asyncpg.Pool) -> Watched:
    return Watched(pool)


def accesses(number: int) -> Sequence[Access]:
    return [Access(NOON, Tenant("acme"), "state", f"/{n}", (new_thread(),)) for n in range(number)]


async def recorded(log: PostgresAccessLog, number: int) -> list[BaseException | None]:
    return await asyncio.gather(*map(log.record, accesses(number)), return_exceptions=True)


async def stored(pool: asyncpg.Pool) -> int:
    found: int = await pool.fetchval("SELECT count(*) FROM reads")
    return found


async def test_what_comes_while_others_are_written_shares_a_statement(pool: asyncpg.Pool, watched: Watched) -> None:
    log = PostgresAccessLog(watched)
    assert await recorded(log, 1) == [None]
    assert await recorded(log, 300) == [None] * 300
    assert watched.groups == [1, MAX_GROUP_ACCESSES, MAX_GROUP_ACCESSES, 300 - 2 * MAX_GROUP_ACCESSES]
    assert await stored(pool) == 301


async def test_nobody_is_told_before_the_commit(pool: asyncpg.Pool, watched: Watched) -> None:
    log = PostgresAccessLog(watched)
    watched.open.clear()
    waiting = asyncio.create_task(recorded(log, 3))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await stored(pool) == 0
    watched.open.set()
    assert await waiting == [None] * 3
    assert await stored(pool) == 3


async def test_too_many_are_refused_and_those_that_wait_are_kept(pool: asyncpg.Pool, watched: Watched) -> None:
    log = PostgresAccessLog(watched, limit=10)
    watched.open.clear()
    waiting = asyncio.create_task(recorded(log, 15))
    await asyncio.sleep(0.05)
    watched.open.set()
    assert [type(outcome) for outcome in await waiting] == [type(None)] * 10 + [Overloaded] * 5
    assert await stored(pool) == 10


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), asyncpg.InsufficientPrivilegeError("no")], ids=repr)
async def test_what_cannot_be_written_fails_for_everybody_and_the_next_can(watched: Watched, error: Exception) -> None:
    log = PostgresAccessLog(watched)
    watched.error = error
    assert {type(outcome) for outcome in await recorded(log, 5)} == {StoreUnavailable}
    watched.error = None
    assert await recorded(log, 2) == [None, None]


async def test_a_caller_who_leaves_takes_nobody_along(pool: asyncpg.Pool, watched: Watched) -> None:
    log = PostgresAccessLog(watched)
    watched.open.clear()
    tasks = [asyncio.create_task(log.record(access)) for access in accesses(4)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    tasks[2].cancel()
    watched.open.set()
    await log.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome is None for outcome in outcomes] == [False, True, False, True]
    assert await stored(pool) == 4
