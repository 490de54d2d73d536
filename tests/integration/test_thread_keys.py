"""Threads' events are found by a key of eight bytes, which may not be the only thread's."""

from dataclasses import replace
from itertools import islice

import asyncpg
import msgspec
import pytest

from domain.ids import Slice, Version
from domain.log.hash_chain import EMPTY_HEAD, Head
from domain.ports.read_models import Shape
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from migrations.run import migrate
from migrations.upgrade import upgrade
from projections import messages
from tests.integration.test_query_plans import plan_of
from tests.streams import NOON, SECOND, appending, new_thread, numbered, threads_of

GROWING_TOGETHER = """
INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
SELECT 7, thread_id, version, row_number() OVER (ORDER BY version, thread_id), 't', 'T', 1, '{}', '{}', now(), ''
  FROM (SELECT gen_random_uuid() AS thread_id FROM generate_series(1, 20)) AS threads
 CROSS JOIN generate_series(1, 1000) AS version
 ORDER BY version, thread_id
"""


async def test_pages_of_threads_that_grow_are_left_full(owner: asyncpg.Connection) -> None:
    """Were they split in the middle, entries would take 56 bytes and more, of which they have 28."""
    await owner.execute(GROWING_TOGETHER)

    assert await owner.fetchval("SELECT pg_relation_size('events_of_thread') / count(*) FROM events") < 45


async def test_a_version_is_in_a_thread_once_whoever_writes_it(owner: asyncpg.Connection) -> None:
    await owner.execute(GROWING_TOGETHER)

    with pytest.raises(asyncpg.UniqueViolationError, match="events_of_thread"):
        await owner.execute(
            """INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata,
                                   recorded_at, hash)
               SELECT slice, thread_id, version, 20001, tenant, type, schema, payload, metadata, recorded_at, hash
                 FROM events WHERE position = 1"""
        )


async def test_each_database_has_keys_of_its_own(owner: asyncpg.Connection, empty_database_url: str) -> None:
    """Nobody can choose two threads of one key, not knowing the seed."""
    await migrate(empty_database_url)
    other, thread_id = await asyncpg.connect(empty_database_url), new_thread()

    keys = [await one.fetchval("SELECT thread_key($1)", thread_id) for one in (owner, other)]

    await other.close()
    assert keys[0] != keys[1]


async def test_threads_of_one_key_are_told_apart(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    await owner.execute("DROP INDEX events_of_thread")
    await owner.execute("CREATE OR REPLACE FUNCTION thread_key(thread uuid) RETURNS bigint IMMUTABLE RETURN 7")
    await owner.execute("CREATE UNIQUE INDEX events_of_thread ON events (thread_key(thread_id), version, slice)")
    store, (one, other) = PostgresEventStore(pool), islice(threads_of(Slice(3)), 2)
    short = appending(one, EMPTY_HEAD, *numbered(2))
    fork = appending(other, Head(Version(2), b"h" * 32, NOON), *numbered(3), at=NOON + SECOND)
    await store.append(short)
    await store.append(msgspec.structs.replace(fork, forked=True))

    assert [record.thread_id for record in await store.read(one, Version(0))] == [one] * 2
    assert [record.version for record in await store.read(other, Version(0))] == [3, 4, 5]
    assert [record.version for record in await store.read_at(one, [Version(2), Version(3)])] == [2]
    assert await store.version_at(one, NOON + SECOND) == 2
    assert await store.version_at(other, NOON) == 0


KEYED = "\n           AND public.thread_key(event.thread_id) = public.thread_key(t.thread_id)"


async def test_a_report_of_messages_that_was_made_before_finds_texts_by_the_key(empty_database_url: str) -> None:
    assert KEYED in messages.TEXT.expression
    text = replace(messages.TEXT, expression=messages.TEXT.expression.replace(KEYED, ""))
    made = Shape("messages", messages.PROJECTION.version, (replace(messages.MESSAGES, derived=(text,)),))
    await upgrade(empty_database_url, "0008")
    async with await open_pool(empty_database_url, max_size=2) as pool:
        await PostgresReadModels(pool).register([made])

    await migrate(empty_database_url)

    owner = await asyncpg.connect(empty_database_url)
    plan = await plan_of(owner, "SELECT content FROM analytics.messages WHERE version = $1")
    (shown,) = await owner.fetchrow("SELECT array_to_string(shown, '') FROM read_models.instances")
    await owner.close()
    assert "events_of_thread" in {node.get("Index Name") for node in plan}
    assert "thread_key(t.thread_id)" in shown, "so is the view, when it serves again"
