"""An error of PostgreSQL is about the request, or the store is unavailable: for appends and reads, in every class."""

import asyncio
import logging
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from domain.errors import StoreUnavailable
from domain.ids import Position, ThreadId, Version
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.access_log import Access
from infrastructure.postgres import failures, retry
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.log.group_commit import MAX_GROUP_APPENDS, GroupCommit
from infrastructure.postgres.pool import open_pool
from tests.integration.test_lost_connections import Unreliable
from tests.streams import ACME, NOON, a_command, appending, new_thread
from tests.support.http import running_api

UNAVAILABLE = (
    *("08006", "0A000", "0LP01", "21000", "25001", "25006", "25P03", "28000", "2BP01", "2F002", "38000", "39P01"),
    *("3D000", "3F000", "40001", "40003", "40P01", "42501", "42601", "42703", "42883", "42P01", "44000"),
    *("53000", "53100", "53200", "53300", "53400", "54000", "54001", "55000", "55006", "55P03", "57000", "57014"),
    *("57P01", "57P03", "58000", "58030", "58P01", "72000", "F0000", "HV000", "P0001", "P0004", "XX000", "XX001"),
    *("XX002", "ZZ999"),
)
"""At least one SQLSTATE of each class that a statement may end with, and some that PostgreSQL does not know."""

REFUSED = ("22000", "22003", "22021", "22P02", "22P05", "23502", "23503", "23505", "23514", "23P01")
"""About data, and about integrity."""

TROUBLE = """
CREATE OR REPLACE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{}'; END $$
"""

ON_EVENTS = "CREATE TRIGGER trouble BEFORE INSERT ON events FOR EACH ROW {} EXECUTE FUNCTION trouble()"

READING = """
CREATE OR REPLACE FUNCTION thread_key(thread uuid) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{}'; END $$
"""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_PAUSES_S", (0.01, 0.01))


async def raising(owner: asyncpg.Connection, state: str, when: str = "") -> None:
    await owner.execute(TROUBLE.format(state))
    await owner.execute("DROP TRIGGER IF EXISTS trouble ON events")
    await owner.execute(ON_EVENTS.format(when))


async def over(owner: asyncpg.Connection) -> None:
    await owner.execute("DROP TRIGGER IF EXISTS trouble ON events")


class Counting:
    """A pool that counts the appends' statements."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.appends: list[int] = []

    def is_closing(self) -> bool:
        return False

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        if "INSERT INTO events" in statement:
            self.appends.append(len(arguments[0]))
        return await self._pool.fetch(statement, *arguments)


async def test_an_append_meets_an_unavailable_store_and_is_stored_once_it_is_back(
    pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    store = PostgresEventStore(pool)
    for state in UNAVAILABLE:
        append = appending(new_thread(), EMPTY_HEAD, "{}", command=a_command())
        await raising(owner, state)
        with pytest.raises(StoreUnavailable) as met:
            await store.append(append)
        assert "trouble" not in str(met.value), "the server's words are for the log"
        await over(owner)
        assert await store.append(append) > 0, state
        assert len(await store.read(append.thread_id, Version(0))) == 1, state


async def test_data_and_integrity_refuse_their_own_append(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    for state in REFUSED:
        await raising(owner, state)
        with pytest.raises(asyncpg.PostgresError) as met:
            await PostgresEventStore(pool).append(appending(new_thread(), EMPTY_HEAD, "{}"))
        assert met.value.sqlstate == state


@pytest.mark.parametrize("state", ["23514", "22P02", "54000", "53100", "57014", "XX000"])
async def test_one_append_that_fails_takes_none_of_its_group_along(
    pool: asyncpg.Pool, owner: asyncpg.Connection, state: str
) -> None:
    await raising(owner, state, "WHEN (NEW.payload::text = '\"bad\"')")
    appends = [appending(new_thread(), EMPTY_HEAD, '"bad"' if n == 9 else "{}") for n in range(MAX_GROUP_APPENDS)]
    counting = Counting(pool)
    appender = GroupCommit(counting)
    results = await asyncio.gather(*[appender.append(append) for append in appends], return_exceptions=True)
    assert [n for n, result in enumerate(results) if not isinstance(result, int)] == [9]
    assert isinstance(results[9], StoreUnavailable) == (state[:2] not in {"22", "23"})
    assert len(counting.appends) <= 2 * MAX_GROUP_APPENDS.bit_length() + 1


@pytest.mark.parametrize("state", ["53100", "57P03", "42501", "XX000"])
async def test_a_group_that_meets_an_unavailable_store_is_not_sent_one_by_one(
    pool: asyncpg.Pool, owner: asyncpg.Connection, state: str
) -> None:
    await raising(owner, state)
    counting = Counting(pool)
    appender = GroupCommit(counting)
    appends = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(MAX_GROUP_APPENDS)]
    results = await asyncio.gather(*[appender.append(append) for append in appends], return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert len(counting.appends) <= 4, "a group, its halves, and once more as a group"


@pytest.mark.parametrize("error", [asyncpg.QueryCanceledError, asyncpg.PostgresSystemError, TimeoutError, EOFError])
async def test_what_may_have_been_stored_without_an_answer_is_found(pool: asyncpg.Pool, error: type[Exception]) -> None:
    append = appending(new_thread(), EMPTY_HEAD, "{}", command=a_command())
    answers: list[Position | Exception] = []
    for attempt in range(2):  # the caller comes again after StoreUnavailable
        faults = [("after", error("as if"))] if attempt == 0 else []
        try:
            answers.append(await GroupCommit(Unreliable(pool, *faults)).append(append))
        except Exception as found:  # noqa: BLE001  (which one it is, is what is asserted)
            answers.append(found)
    assert isinstance(answers[0], int | StoreUnavailable)
    assert len(await PostgresEventStore(pool).read(append.thread_id, Version(0))) == 1


async def test_a_read_meets_an_unavailable_store(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    store, thread_id = PostgresEventStore(pool), new_thread()
    for state in UNAVAILABLE:
        await owner.execute(READING.format(state))
        with pytest.raises(StoreUnavailable):
            await store.read(thread_id, Version(0))


async def test_the_log_names_the_server_s_words_and_a_mistake_of_ours_with_its_place(
    pool: asyncpg.Pool, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_logged", {})
    for state in ("53100", "53100", "42601"):
        await raising(owner, state)
        with pytest.raises(StoreUnavailable):
            await PostgresEventStore(pool).append(appending(new_thread(), EMPTY_HEAD, "{}"))
    told = [record for record in caplog.records if record.name == failures.__name__]
    assert [(record.levelno, bool(record.exc_info)) for record in told] == [
        (logging.WARNING, False),
        (logging.ERROR, True),
    ], "once for the same trouble"
    assert "53100" in told[0].message
    assert "trouble" in told[0].message


async def test_sessions_that_have_become_read_only_are_replaced(database_url: str) -> None:
    """As after a failover behind one address: the sessions stay open, at a server that takes no writes."""
    async with await open_pool(database_url, max_size=4) as pool:
        connections = [await pool.acquire() for _ in range(4)]
        old = {connection.get_server_pid() for connection in connections}
        for connection in connections:
            await connection.execute("SET default_transaction_read_only = on")
            await pool.release(connection)
        store = PostgresEventStore(pool)
        assert await store.append(appending(new_thread(), EMPTY_HEAD, "{}")) > 0
        connections = [await pool.acquire() for _ in range(4)]
        assert {connection.get_server_pid() for connection in connections}.isdisjoint(old), "readers have new ones, too"
        for connection in connections:
            await pool.release(connection)


async def test_a_new_pool_is_not_taken_for_one_that_is_gone() -> None:
    class Pool:
        expired = False

        async def expire_connections(self) -> None:
            self.expired = True

    error = asyncpg.ReadOnlySQLTransactionError("as if")
    for _ in range(9):  # each lives for as long as it takes, and the next one gets its place in memory
        pool = Pool()
        await failures.give_up_stale(pool, error)
        assert pool.expired
        pool.expired = False
        await failures.give_up_stale(pool, error)
        assert not pool.expired, "once a second"
        del pool


async def test_a_lost_permission_is_no_crash_and_comes_back(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    store, append = PostgresEventStore(pool), appending(new_thread(), EMPTY_HEAD, "{}")
    await owner.execute("REVOKE INSERT ON events FROM threadfold_app")
    with pytest.raises(StoreUnavailable, match="permission"):
        await store.append(append)
    await owner.execute("GRANT INSERT ON events TO threadfold_app")
    assert await store.append(append) > 0


async def test_an_access_that_cannot_be_written_is_refused_alone(pool: asyncpg.Pool) -> None:
    """The driver refuses a value before it sends anything: and about the value all the same."""
    log = PostgresAccessLog(pool)
    accesses = [Access(NOON, ACME, "state", "/", (new_thread(),), actor) for actor in ("ada", "\ud800", "ada")]
    results = await asyncio.gather(*[log.record(access) for access in accesses], return_exceptions=True)
    assert [results[0], results[2]] == [None, None]
    assert isinstance(results[1], asyncpg.DataError)


async def test_over_http_an_unavailable_store_is_a_503_that_says_when_to_come_again(
    database_url: str, owner: asyncpg.Connection
) -> None:
    async with running_api(database_url=database_url) as api:
        thread = await api.opened()
        for state in ("53100", "42501", "57014", "XX000", "0A000", "P0001", "42703"):
            await raising(owner, state)
            refused = await api.patch(f"/v1/threads/{thread}/values", json={"values": {"a": state}})
            await over(owner)
            assert (refused.status_code, refused.headers.get("retry-after")) == (503, "2"), state
            assert "trouble" not in refused.text
        await owner.execute(READING.format("53200"))
        for path in ("events", "events?limit=5"):
            refused = await api.get(f"/v1/threads/{thread}/{path}")
            assert (refused.status_code, refused.headers.get("retry-after")) == (503, "2"), path


async def test_a_stream_ends_where_the_store_is_away_and_the_client_is_told_when_it_comes_again(
    database_url: str, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_api(database_url=database_url) as api:
        thread = await api.opened()
        async with (
            httpx.AsyncClient(base_url=api.base_url, timeout=60) as client,
            client.stream("GET", f"/v1/threads/{thread}/stream", params={"after": 0}) as stream,
        ):
            lines = stream.aiter_lines()
            while await anext(lines) != "id: 1":
                pass
            await owner.execute("REVOKE SELECT ON events FROM threadfold_app")
            other = await open_pool(database_url, max_size=1)  # an event that another process writes
            async with other:
                row = await PostgresEventStore(other).thread(ThreadId(UUID(thread)))
                assert row is not None
                await PostgresEventStore(other).append(
                    appending(row.thread_id, row.head, "{}", at=row.head.at, tenant=row.tenant)
                )
            rest = [line async for line in lines]
        assert ": the store is unavailable" in rest
        assert "Exception in ASGI application" not in caplog.text
        assert (await api.get(f"/v1/threads/{thread}/events")).status_code == 503


async def test_an_error_of_the_driver_that_gets_past_everything_is_a_503_and_a_defect_of_ours_a_500(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_api(database_url=database_url) as api:
        thread = await api.opened()
        errors = (
            (asyncpg.ConnectionDoesNotExistError("gone"), 503),
            (asyncpg.DiskFullError("full"), 503),
            (ConnectionResetError(), 503),
            (asyncpg.NumericValueOutOfRangeError("too large"), 500),
            (ZeroDivisionError(), 500),
        )
        for error, status in errors:

            async def failing(*_: object, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(api.service.runtime.repository.store, "thread", failing)
            answer = await api.get(f"/v1/threads/{thread}/events")
            assert answer.status_code == status, error
            assert ("retry-after" in answer.headers) == (status == 503)
