"""Nobody changes the log: not the application, not the owner, not a superuser in a hurry."""

import asyncpg
import pytest

from domain.ids import Version
from domain.log.hash_chain import EMPTY_HEAD
from infrastructure.postgres.log.event_store import PostgresEventStore
from tests.streams import appending, new_thread

FORBIDDEN = [
    "UPDATE events SET payload = '{}'",
    "UPDATE events SET payload = payload WHERE false",
    "DELETE FROM events",
    "DELETE FROM events WHERE false",
    "TRUNCATE events",
    "TRUNCATE events, threads CASCADE",
    "INSERT INTO events SELECT * FROM events ON CONFLICT (slice, position) DO UPDATE SET payload = '{}'",
    "MERGE INTO events USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
]


@pytest.fixture
async def stored(pool: asyncpg.Pool) -> PostgresEventStore:
    store = PostgresEventStore(pool)
    append = appending(new_thread(), EMPTY_HEAD, '{"kept": true}')
    await store.append(append)
    return store


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_owner_is_refused_and_told_why(
    stored: PostgresEventStore, owner: asyncpg.Connection, statement: str
) -> None:
    assert stored
    before = await owner.fetch("SELECT * FROM events")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="on events was refused: the log is append-only") as it:
        await owner.execute(statement)

    assert "Append a new event" in str(it.value.hint)
    assert await owner.fetch("SELECT * FROM events") == before


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_posing_as_a_replica_does_not_help(
    stored: PostgresEventStore, owner: asyncpg.Connection, statement: str
) -> None:
    assert stored
    await owner.execute("SET session_replication_role = replica")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        *FORBIDDEN,
        "UPDATE commands SET result = '{}'",
        "DELETE FROM commands",
        "DELETE FROM threads",
        "TRUNCATE threads",
        "INSERT INTO slices VALUES (0, 1024)",
        "DELETE FROM slices",
        "UPDATE alembic_version SET version_num = '0'",
        "ALTER TABLE events DISABLE TRIGGER append_only",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "DROP TABLE events",
        "DROP TRIGGER append_only ON events",
        "CREATE OR REPLACE FUNCTION refuse_to_change_events() RETURNS trigger LANGUAGE sql AS ''",
        "SET session_replication_role = replica",
    ],
)
async def test_the_application_has_not_even_the_right_to_ask(
    stored: PostgresEventStore, pool: asyncpg.Pool, statement: str
) -> None:
    assert stored
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"permission denied|must be owner"):
        await pool.execute(statement)


async def test_the_application_runs_as_its_role(pool: asyncpg.Pool) -> None:
    assert await pool.fetchval("SELECT current_user") == "threadfold_app"
    assert not await pool.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")


async def test_json_is_kept_as_text_and_can_be_asked_in_sql(
    stored: PostgresEventStore, owner: asyncpg.Connection
) -> None:
    row = await owner.fetchrow("SELECT thread_id, payload ->> 'kept' AS kept, payload::text AS text FROM events")

    assert row is not None
    assert (row["kept"], row["text"]) == ("true", '{"kept": true}')
    [record] = await stored.read(row["thread_id"], Version(0))
    assert record.payload == row["text"]


SEAL = """
INSERT INTO seals (number, at, root, previous, public_key, signature, sizes)
SELECT 1, now(), sha256('r'), sha256('p'), sha256('k'), sha256('s') || sha256('s'), array_fill(0::bigint, '{1024}')
"""
FORBIDDEN_OF_SEALS = [
    "UPDATE seals SET number = 2",
    "DELETE FROM seals",
    "TRUNCATE seals",
    "DELETE FROM seals WHERE false",
]


@pytest.mark.parametrize("statement", FORBIDDEN_OF_SEALS)
async def test_seals_can_only_be_added(pool: asyncpg.Pool, owner: asyncpg.Connection, statement: str) -> None:
    await pool.execute(SEAL)

    await owner.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="on seals was refused: seals are append-only"):
        await owner.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await pool.execute(statement)

    assert await owner.fetchval("SELECT number FROM seals") == 1


READ = """
INSERT INTO reads (at, tenant, what, request, threads)
VALUES (now(), 'default', 'state', '/v1/threads', ARRAY[gen_random_uuid()])
"""
FORBIDDEN_OF_READS = [
    "UPDATE reads SET actor = 'somebody else'",
    "DELETE FROM reads",
    "TRUNCATE reads",
    "DELETE FROM reads WHERE false",
    f"{READ} ON CONFLICT (tenant, at, id) DO UPDATE SET actor = 'somebody else'",
]


@pytest.mark.parametrize("statement", FORBIDDEN_OF_READS)
async def test_who_has_read_what_can_only_be_added(
    pool: asyncpg.Pool, owner: asyncpg.Connection, statement: str
) -> None:
    await pool.execute(READ)
    before = await owner.fetch("SELECT * FROM reads")

    await owner.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="on reads was refused: the audit of reads is append"):
        await owner.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await pool.execute(statement)

    assert await owner.fetch("SELECT * FROM reads") == before


LIMITS = """
INSERT INTO budget_limits (tenant, agent, model, limits, set_at) VALUES ('default', '', '', '[]', now())
"""
FORBIDDEN_OF_LIMITS = [
    "UPDATE budget_limits SET actor = 'somebody else'",
    "DELETE FROM budget_limits",
    "TRUNCATE budget_limits",
    "DELETE FROM budget_limits WHERE false",
]


@pytest.mark.parametrize("statement", FORBIDDEN_OF_LIMITS)
async def test_the_history_of_limits_can_only_be_added_to(
    pool: asyncpg.Pool, owner: asyncpg.Connection, statement: str
) -> None:
    await pool.execute(LIMITS)
    before = await owner.fetch("SELECT * FROM budget_limits")

    await owner.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="on budget_limits was refused: the history of limits"):
        await owner.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await pool.execute(statement)

    assert await owner.fetch("SELECT * FROM budget_limits") == before
