"""Metadata and snapshots take few bytes on the disk, and events from before are read as they were written."""

import random
from uuid import UUID

import asyncpg
import pytest

from domain.ids import CommandId, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Draft, Head, chain_records, check_chain
from domain.ports.log import Append
from domain.ports.snapshots import Snapshot
from domain.thread.codec import Metadata, to_json
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.log.metadata_columns import AS_IT_IS, split_metadata
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from migrations.run import migrate
from migrations.upgrade import upgrade
from tests.streams import ACME, NOON, new_thread
from tests.support.seals import SCRIPT

VERIFY_SQL = (SCRIPT.parent / "verify.sql").read_text()
CAUSE = CommandId(UUID(int=7))
AGENT_S = to_json(Metadata(causation=CAUSE))
ASKED_FOR = to_json(Metadata(causation=CAUSE, correlation="ticket 7, naïve"))
CALLER_S = to_json(Metadata(command=CAUSE))
ODD = AGENT_S.replace("}", ',"command":null}')

WHERE_THEY_ARE = "SELECT ctid, xmin, pg_relation_filenode('events') FROM events WHERE version <= 2 ORDER BY version"

AS_BEFORE = """
WITH moved AS (
    UPDATE slices SET head = 2 WHERE slice = $1
), opened AS (
    INSERT INTO threads (slice, thread_id, tenant, version, hash, opened_at, at, in_turn)
    VALUES ($1, $2, $3, 2, ($5::bytea[])[2], $4, $4, false)
)
INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
SELECT $1, $2, number, number, $3, 'NoteTaken', 1, '{}', metadata, $4, hash
  FROM unnest($6::json[], $5::bytea[]) WITH ORDINALITY AS event (metadata, hash, number)
"""
"""Appends two events as it was done without the column of causations."""

WITH_CAUSATIONS = AS_BEFORE.replace("hash)\nSELECT", "hash, causation)\nSELECT").replace("$4, hash\n", "$4, hash, $7\n")
"""The same with that, when commands had none yet."""


def an_append(after: Head, *metadata: str, thread_id: ThreadId) -> Append:
    records, head = chain_records(
        ACME, thread_id, after, [Draft("NoteTaken", 1, "{}", text) for text in metadata], NOON
    )
    return Append(ACME, thread_id, after, head, records, in_turn=False)


async def test_a_command_is_stored_in_a_column_of_its_own(pool: asyncpg.Pool, owner: asyncpg.Connection) -> None:
    texts = [CALLER_S, AGENT_S, ASKED_FOR, ODD]
    thread_id, store = new_thread(), PostgresEventStore(pool)
    await store.append(an_append(EMPTY_HEAD, *texts, thread_id=thread_id))

    rows = await owner.fetch("SELECT metadata, causation FROM events ORDER BY version")

    assert [tuple(row) for row in rows] == [
        ('{"command":null}', CAUSE),
        ("{}", CAUSE),
        ('{"correlation":"ticket 7, naïve"}', CAUSE),
        (ODD, AS_IT_IS),
    ]
    assert [record.metadata for record in await store.read(thread_id, Version(0))] == texts
    assert await owner.fetch(VERIFY_SQL) == []


async def test_no_event_can_have_a_null_which_would_make_its_row_longer(owner: asyncpg.Connection) -> None:
    assert not await owner.fetch(
        "SELECT FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attnotnull"
    )


async def test_a_snapshot_of_common_size_is_compressed_and_stays_in_its_table(
    pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    chance = random.Random(1)
    window = [{"version": n, "role": "assistant", "tokens": chance.randrange(10**12)} for n in range(260)]
    head, fingerprint = Head(Version(120), chance.randbytes(32), NOON), chance.randbytes(32).hex()

    await PostgresSnapshotStore(pool).save(Snapshot(ACME, new_thread(), head, fingerprint, to_json(window)))

    row = await owner.fetchrow("SELECT octet_length(state::text) AS text, pg_column_size(state) AS kept FROM snapshots")
    assert row["text"] > 9_000
    assert 2_500 < row["kept"] < row["text"] / 2
    beside = "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'snapshots'::regclass"
    assert await owner.fetchval(beside) == 0


@pytest.mark.parametrize("text", [AGENT_S, ASKED_FOR, CALLER_S])
@pytest.mark.parametrize("revision", ["0007", "0008"])
async def test_events_from_before_stay_where_they_are_and_others_follow_on_them(
    empty_database_url: str, revision: str, text: str
) -> None:
    await upgrade(empty_database_url, revision)
    owner, thread_id = await asyncpg.connect(empty_database_url), new_thread()
    old = an_append(EMPTY_HEAD, text, text, thread_id=thread_id)
    hashes = [record.hash for record in old.records]
    if revision == "0007":
        await owner.execute(AS_BEFORE, slice_of(thread_id), thread_id, ACME, NOON, hashes, [text, text])
    else:
        rest, causation = (text, AS_IT_IS) if text == CALLER_S else split_metadata(text)
        await owner.execute(
            WITH_CAUSATIONS, slice_of(thread_id), thread_id, ACME, NOON, hashes, [rest, rest], causation
        )
    before = await owner.fetch(WHERE_THEY_ARE)

    await migrate(empty_database_url)
    new = an_append(old.head, text, thread_id=thread_id)
    async with await open_pool(empty_database_url, max_size=2) as pool:
        await PostgresEventStore(pool).append(new)
        stored = await PostgresEventStore(pool).read(thread_id, Version(0))

    assert await owner.fetch(WHERE_THEY_ARE) == before
    assert [record.metadata for record in stored] == [text] * 3
    assert check_chain(stored, EMPTY_HEAD) == new.head
    assert await owner.fetch(VERIFY_SQL) == []
    await owner.close()
