"""One ledger in several processes: most are a pool each, and some are real processes."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from domain.errors import Overloaded
from domain.ids import SHARDS, Shard
from domain.ports.ledger import Amount, Granted, Refused, Scope, ScopeLimits
from domain.thread.events import Limit
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.pool import open_pool
from tests.contracts.test_ledger import AT, a_call
from tests.streams import ACME

ROOT = Path(__file__).parents[2]
EVERY = [Shard(number) for number in range(SHARDS)]

SPENDER = """
import asyncio, sys, random
from domain.ports.ledger import Amount, Granted
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.pool import open_pool
from tests.contracts.test_ledger import a_call

async def main(url):
    async with await open_pool(url, max_size=4) as pool:
        ledger, spent = PostgresLedger(pool), 0

        async def call():
            nonlocal spent
            asked = a_call(random.randint(1, 9))
            if isinstance(await ledger.reserve(asked), Granted):
                await ledger.settle(asked.id, asked.worst_case)
                spent += asked.worst_case.tokens

        for _ in range(10):
            await asyncio.gather(*[call() for _ in range(20)])
        print(spent)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
async def ledgers(database_url: str) -> AsyncIterator[list[PostgresLedger]]:
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(await open_pool(database_url, max_size=4)) for _ in range(4)]
        yield [PostgresLedger(pool) for pool in pools]


async def test_processes_that_spend_at_once_never_pass_a_limit(database_url: str, pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.set_limits(ScopeLimits(Scope(ACME), (Limit("day", 2_000), Limit("month", 10**6)), AT, None), {})
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SPENDER, database_url), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    spent = [int((await process.communicate())[0]) for process in processes]
    day, month = await ledger.limit_usage(ACME, AT)
    assert day.spent.tokens == month.spent.tokens == sum(spent)
    assert 2_000 - 9 < sum(spent) <= 2_000
    assert day.reserved == month.reserved == Amount()


async def test_only_as_many_get_something_as_there_is_something_for(ledgers: list[PostgresLedger]) -> None:
    await ledgers[0].set_limits(ScopeLimits(Scope(ACME), (Limit("day", 55),), AT, None), {})
    answers = await asyncio.gather(*[ledgers[n % 4].reserve(a_call(10)) for n in range(40)])
    assert sum(isinstance(answer, Granted) for answer in answers) == 5
    assert all(answer.temporary for answer in answers if isinstance(answer, Refused))


async def test_whoever_ends_a_call_first_counts(ledgers: list[PostgresLedger]) -> None:
    """The worker settles late what another one has released, or the other way round: never both."""
    await ledgers[0].set_limits(ScopeLimits(Scope(ACME), (Limit("day", 10**6, warn_at=0.001),), AT, None), {})
    calls = [a_call(100) for _ in range(60)]
    for call in calls:
        await ledgers[0].reserve(call)

    async def settle(n: int, ledger: PostgresLedger) -> int:
        return len(await ledger.settle(calls[n].id, Amount(100)))

    both = [settle(n, ledger) for n in range(60) for ledger in ledgers[:3]]
    told = await asyncio.gather(*both, *[ledgers[3].release(call.id) for call in calls[::-1]])
    (usage,) = await ledgers[0].limit_usage(ACME, AT)
    assert usage.reserved == Amount()
    assert usage.spent.tokens % 100 == 0
    assert 1_000 <= usage.spent.tokens <= 6_000
    assert sum(one for one in told if one) == 1
    assert await ledgers[0].open_reservations(EVERY) == []


async def test_limits_change_and_windows_end_while_many_spend(ledgers: list[PostgresLedger]) -> None:
    """There are no deadlocks, and nothing stays reserved."""
    scopes = [Scope(ACME), Scope(ACME, "assistant"), Scope(ACME, "", "gpt")]

    async def change(ledger: PostgresLedger) -> None:
        for n in range(15):
            for scope in scopes:
                limits = () if n % 5 == 4 else (Limit("hour", 500 + n), Limit("day", 10**6))
                await ledger.set_limits(
                    ScopeLimits(scope, limits, AT.replace(hour=n), None), {"hour": Amount(n), "day": Amount(n)}
                )

    async def call(ledger: PostgresLedger, n: int) -> None:
        asked = a_call(5, at=AT.replace(hour=n % 15))
        if isinstance(await ledger.reserve(asked), Granted):
            await ledger.settle(asked.id, Amount(4))

    spending = [call(ledgers[n % 4], n) for n in range(400)]
    await asyncio.gather(*[change(ledger) for ledger in ledgers[:2]], *spending)
    for scope in scopes:
        await ledgers[0].set_limits(ScopeLimits(scope, (Limit("day", 10**6), Limit("hour", 1)), AT, None), {})
    assert await ledgers[0].open_reservations(EVERY) == []
    for n in range(15):
        assert all(one.reserved == Amount() for one in await ledgers[0].limit_usage(ACME, AT.replace(hour=n)))


async def test_what_cannot_be_counted_is_refused_alone(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool)
    await ledger.set_limits(ScopeLimits(Scope(ACME), (Limit("day", 10**6),), AT, None), {})
    bad = a_call(2**63)
    answers = await asyncio.gather(
        ledger.reserve(a_call(1)), ledger.reserve(bad), ledger.reserve(a_call(2)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Granted, asyncpg.NumericValueOutOfRangeError, Granted]


async def test_too_many_at_once_are_refused(pool: asyncpg.Pool) -> None:
    ledger = PostgresLedger(pool, limit=10)
    answers = await asyncio.gather(*[ledger.release(uuid4()) for _ in range(20)], return_exceptions=True)
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 10


async def test_what_was_spent_in_a_row_is_written_in_place(ledgers: list[PostgresLedger], pool: asyncpg.Pool) -> None:
    await ledgers[0].set_limits(ScopeLimits(Scope(ACME), (Limit("day", 10**9),), AT, None), {})
    for _ in range(10):
        calls = [a_call(1) for _ in range(100)]
        await asyncio.gather(*[ledgers[0].reserve(call) for call in calls])
        await asyncio.gather(*[ledgers[0].settle(call.id, Amount(1)) for call in calls])
    row = "n_tup_upd, n_tup_hot_upd"
    for _ in range(100):
        await ledgers[0]._pool.execute("SELECT pg_stat_force_next_flush()")
        found = await pool.fetchrow(f"SELECT {row} FROM pg_stat_user_tables WHERE relname = 'spending'")
        if found["n_tup_upd"] >= 2_000:
            break
        await asyncio.sleep(0.1)
    assert found["n_tup_hot_upd"] > 0.9 * found["n_tup_upd"]


async def test_an_open_reservation_is_as_it_was_made(pool: asyncpg.Pool) -> None:
    ledger, call = PostgresLedger(pool), a_call(3, 2**60)
    await ledger.set_limits(ScopeLimits(Scope(ACME), (Limit("day", 10),), AT, None), {})
    await ledger.reserve(call)
    assert await ledger.open_reservations(EVERY) == [call]


async def test_connections_that_are_lost_lose_and_double_nothing(
    ledgers: list[PostgresLedger], owner: asyncpg.Connection
) -> None:
    await ledgers[0].set_limits(ScopeLimits(Scope(ACME), (Limit("day", 10**6),), AT, None), {})
    done = asyncio.Event()

    async def cut() -> None:
        while not done.is_set():
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'threadfold' AND random() < 0.5"
            )
            await asyncio.sleep(0.1)

    async def call(ledger: PostgresLedger) -> int:
        asked = a_call(5)
        assert isinstance(await ledger.reserve(asked), Granted)
        await ledger.settle(asked.id, Amount(4))
        return 4

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cut())
        spent = 0
        for _ in range(25):
            spent += sum(await asyncio.gather(*[call(ledgers[n % 4]) for n in range(40)]))
        done.set()
    (usage,) = await ledgers[0].limit_usage(ACME, AT)
    assert (usage.spent, usage.reserved) == (Amount(spent), Amount())


MANY = """
INSERT INTO budget_limits (tenant, agent, model, limits, set_at)
SELECT 't' || n % 5000, '', '', '[{"window": "day", "tokens": 1000000, "cost": null, "warn_at": 0.8}]', now()
  FROM generate_series(1, 20000) AS n;
INSERT INTO spending (tenant, agent, model, "window", start)
SELECT 't' || n % 5000, '', '', 'day', '2026-11-01'::timestamptz + n / 5000 * interval '1 day'
  FROM generate_series(0, 19999) AS n;
INSERT INTO reservations (id, tenant, thread_id, shard, agent, model, tokens, cost, at, strained, taken)
SELECT gen_random_uuid(), 't' || n % 5000, gen_random_uuid(), n % 64, 'a', 'm', 1, 1, now(), false, '[]'
  FROM generate_series(0, 19999) AS n;
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_no_call_reads_a_whole_table(database_url: str, owner: asyncpg.Connection, *, analyzed: bool) -> None:
    tables = ("budget_limits", "spending", "reservations")
    for table in tables:
        await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await owner.execute(MANY)
    if analyzed:
        await owner.execute("ANALYZE")
    scans = "SELECT relname, seq_scan, idx_scan > 0 AS used FROM pg_stat_xact_user_tables WHERE relname = ANY ($1)"
    async with await open_pool(database_url, max_size=1) as pool, pool.acquire() as connection:
        ledger = PostgresLedger(OneConnection(connection))
        async with connection.transaction():
            for n in range(8):  # with plans of their own, and then with one for all
                calls = [a_call(5, tenant=f"t{n}", agent="a", model="m") for _ in range(n + 1)]
                await asyncio.gather(*[ledger.reserve(call) for call in calls])
                await asyncio.gather(*[ledger.settle(call.id, Amount(5)) for call in calls])
            await ledger.limits(calls[0].tenant)
            await ledger.limit_usage(calls[0].tenant, AT)
            await ledger.open_reservations(EVERY[:3])
            found = await connection.fetch(scans, tables)
            assert {row["relname"]: (row["seq_scan"], row["used"]) for row in found} == dict.fromkeys(tables, (0, True))


class OneConnection:
    """A pool that gives one connection, in its transaction, to one at a time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()

    async def fetch(self, *arguments: object) -> object:
        async with self._lock:
            return await self._connection.fetch(*arguments)
