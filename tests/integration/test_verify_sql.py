"""docs/verify.sql finds what `check_chain` finds, without our code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from domain.errors import CorruptLog
from domain.ids import ThreadId, Version
from domain.log.hash_chain import EMPTY_HEAD, check_chain
from infrastructure.postgres.log.event_store import PostgresEventStore
from tests.streams import NOON, SECOND, appending, new_thread

SCRIPT = (Path(__file__).parents[2] / "docs" / "verify.sql").read_text()
PAYLOADS = ('{"text": "naïve 👩‍👩‍👧"}', "1.10", '{"b":1,  "a":18446744073709551615}', '"\\u0041"', "null")


@pytest.fixture
async def thread(pool: asyncpg.Pool) -> ThreadId:
    """Store five events in two appends, and another thread that nobody touches."""
    store = PostgresEventStore(pool)
    thread_id = new_thread()
    opened = appending(thread_id, EMPTY_HEAD, *PAYLOADS[:3])
    await store.append(opened)
    await store.append(appending(thread_id, opened.head, *PAYLOADS[3:], at=NOON + SECOND))
    await store.append(appending(new_thread(), EMPTY_HEAD, *PAYLOADS))
    return thread_id


async def tamper(owner: asyncpg.Connection, statement: str, *arguments: Any) -> None:
    """Do what only a superuser can: take the trigger away, and put it back."""
    async with owner.transaction():
        await owner.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        await owner.execute(statement, *arguments)
        await owner.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER append_only")


async def findings(owner: asyncpg.Connection) -> Sequence[tuple[ThreadId | None, int | None, str]]:
    return [(row["thread_id"], row["version"], row["fault"]) for row in await owner.fetch(SCRIPT)]


async def test_an_untouched_log_has_no_findings(thread: ThreadId, owner: asyncpg.Connection) -> None:
    assert await owner.fetchval("SELECT count(*) FROM events WHERE thread_id = $1", thread) == 5
    assert await findings(owner) == []


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York"])
async def test_the_session_may_be_in_any_time_zone_and_date_style(
    thread: ThreadId, owner: asyncpg.Connection, zone: str
) -> None:
    assert thread
    await owner.execute(f"SET timezone = '{zone}'; SET datestyle = 'German'; SET bytea_output = 'escape'")
    assert await findings(owner) == []


@pytest.mark.parametrize(
    "change",
    [
        "payload = '{}'",
        "payload = (payload::text || ' ')::json",
        "payload = '1.1'",
        "metadata = '{}'",
        "type = type || 'X'",
        "schema = schema + 1",
        "tenant = 'other'",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "hash = sha256(hash)",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 5])
async def test_a_changed_event_is_found_by_sql_and_by_python_alike(
    thread: ThreadId, pool: asyncpg.Pool, owner: asyncpg.Connection, change: str, version: int
) -> None:
    await tamper(owner, f"UPDATE events SET {change} WHERE thread_id = $1 AND version = $2", thread, version)

    found = await findings(owner)

    with pytest.raises(CorruptLog, match=f"version {version} was changed"):
        check_chain(await PostgresEventStore(pool).read(thread, Version(0)), EMPTY_HEAD)
    assert found[0] == (thread, version, "it was changed after it was written")
    assert {each[0] for each in found} == {thread}


async def test_a_removed_event_is_found_by_sql_and_by_python_alike(
    thread: ThreadId, pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    await tamper(owner, "DELETE FROM events WHERE thread_id = $1 AND version = 2", thread)

    found = await findings(owner)

    with pytest.raises(CorruptLog, match="version 2 is missing, 3 came instead"):
        check_chain(await PostgresEventStore(pool).read(thread, Version(0)), EMPTY_HEAD)
    assert (thread, 3, "version 2 is missing before it") in found
    assert (None, None, "positions are missing between 1 and 5") in found


async def test_removing_the_last_events_is_found_by_the_heads(thread: ThreadId, owner: asyncpg.Connection) -> None:
    """The chain alone cannot see this: what is left is a chain."""
    await tamper(owner, "DELETE FROM events WHERE thread_id = $1 AND version > 3", thread)

    assert await findings(owner) == [
        (thread, 5, "the thread's head and its last event differ"),
        (None, None, "the slice's head is 5, its events end at 3"),
    ]


async def test_removing_a_whole_thread_is_found(thread: ThreadId, owner: asyncpg.Connection) -> None:
    await tamper(owner, "DELETE FROM events WHERE thread_id = $1", thread)

    assert (thread, 5, "the thread's head and its last event differ") in await findings(owner)


async def test_a_forged_thread_is_found(thread: ThreadId, owner: asyncpg.Connection) -> None:
    await owner.execute("DELETE FROM threads WHERE thread_id = $1", thread)

    assert await findings(owner) == [(thread, 5, "the thread's head and its last event differ")]
