"""Every SQL statement of the stores, named and described.

Parameters are named where the statement starts (`asked`), so that the rest reads without counting.
"""

APPEND = """
WITH asked AS (
    SELECT $1::smallint     AS slice,
           $2::uuid         AS thread_id,
           $3::text         AS tenant,
           $4::integer      AS expected_version,
           $5::bytea        AS expected_hash,
           $6::integer      AS version,
           $7::bytea        AS hash,
           $8::timestamptz  AS opened_at,
           $9::timestamptz  AS at,
           $10::boolean     AS in_turn,
           $11::uuid        AS command_id,
           $12::bytea       AS request_hash,
           $13::json        AS result
     WHERE NOT EXISTS (SELECT FROM commands AS seen WHERE seen.slice = $1 AND seen.command_id = $11)
), opened AS (
    INSERT INTO threads (slice, thread_id, tenant, version, hash, opened_at, at, in_turn)
    SELECT slice, thread_id, tenant, version, hash, opened_at, at, in_turn
      FROM asked
     WHERE expected_version = 0 AND version > 0 AND expected_hash = decode(repeat('00', 32), 'hex')
        ON CONFLICT (slice, thread_id) DO NOTHING
    RETURNING slice, thread_id
), moved AS (
    UPDATE threads AS thread
       SET version = asked.version, hash = asked.hash, at = asked.at, in_turn = asked.in_turn
      FROM asked
     WHERE thread.slice = asked.slice AND thread.thread_id = asked.thread_id AND thread.tenant = asked.tenant
       AND thread.version = asked.expected_version AND thread.hash = asked.expected_hash
    RETURNING thread.slice, thread.thread_id
), accepted AS (
    SELECT asked.*, asked.version - asked.expected_version AS size
      FROM asked JOIN (SELECT * FROM opened UNION ALL SELECT * FROM moved) AS head USING (slice, thread_id)
), placed AS (
    UPDATE slices
       SET head = slices.head + accepted.size
      FROM accepted
     WHERE slices.slice = accepted.slice AND accepted.size > 0
    RETURNING slices.slice, slices.head - accepted.size AS before
), recorded AS (
    INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, recorded_at, hash)
    SELECT accepted.slice, accepted.thread_id, accepted.expected_version + event.number,
           placed.before + event.number, accepted.tenant, event.type, event.schema, event.payload, event.metadata,
           event.recorded_at, event.hash
      FROM accepted
      JOIN placed USING (slice),
           unnest($14::text[], $15::smallint[], $16::json[], $17::json[], $18::timestamptz[], $19::bytea[])
           WITH ORDINALITY AS event (type, schema, payload, metadata, recorded_at, hash, number)
), remembered AS (
    INSERT INTO commands (slice, command_id, tenant, thread_id, request_hash, result)
    SELECT slice, command_id, tenant, thread_id, request_hash, result
      FROM accepted
     WHERE command_id IS NOT NULL
)
SELECT coalesce(placed.before + 1, 0) AS position
  FROM accepted LEFT JOIN placed USING (slice)
"""
"""Move a thread's head, then its slice's head, and store the events at the positions in between.

No row comes back, and nothing is stored, where the command was seen before or the thread's head is not the expected
one. Only two rows are contended, and always in this order: the thread's, then its slice's (`placed` reads what
`moved` returned). Whoever waits for one of them goes on from the row as it was committed, not from the statement's
snapshot: READ COMMITTED re-checks the WHERE of an UPDATE, and computes its RETURNING, on the newest row. The slice's
lock is held until the commit; therefore positions appear without gaps, in the order of the commits.
"""

READ = """
SELECT tenant, thread_id, version, type, schema, payload, metadata, recorded_at, hash, position
  FROM events
 WHERE slice = $1 AND thread_id = $2 AND version > $3 AND version <= $4
 ORDER BY version
 LIMIT $5
"""
"""A thread's events between two versions (the first excluded), at most $5 (null: all)."""

READ_SLICE = """
SELECT tenant, thread_id, version, type, schema, payload, metadata, recorded_at, hash, position
  FROM events
 WHERE slice = $1 AND position > $2
 ORDER BY position
 LIMIT $3
"""
"""A slice's events after a position, in the order of their commits."""

RECORDED = """
SELECT position
  FROM events
 WHERE slice = $1 AND thread_id = $2 AND version = $3 AND hash = $4
"""
"""Where the event with this hash is, if it is there. The hash covers all of its thread's past."""

SLICE_HEAD = """
SELECT head
  FROM slices
 WHERE slice = $1
"""
"""The last position that was given out in a slice."""

COMMAND = """
SELECT command_id, request_hash, result
  FROM commands
 WHERE slice = $1 AND command_id = $2
"""
"""A command as it was stored."""

THREAD = """
SELECT tenant, thread_id, version, hash, at, opened_at, in_turn
  FROM threads
 WHERE slice = $1 AND thread_id = $2
"""
"""A thread's head."""

THREADS = """
SELECT tenant, thread_id, version, hash, at, opened_at, in_turn
  FROM threads
 WHERE tenant = $1 AND (opened_at, thread_id) < ($2, $3)
 ORDER BY opened_at DESC, thread_id DESC
 LIMIT $4
"""
"""A page of a tenant's threads, the last opened first."""

STALLED = """
SELECT tenant, thread_id, version, hash, at, opened_at, in_turn
  FROM threads
 WHERE in_turn AND at < $1
 ORDER BY at, thread_id
 LIMIT $2
"""
"""Threads with a turn running in which nothing has happened since an instant."""

VERSION_AT = """
WITH RECURSIVE search (low, high) AS (
    SELECT 0, version
      FROM threads
     WHERE slice = $1 AND thread_id = $2
     UNION ALL
    SELECT CASE WHEN event.recorded_at <= $3 THEN event.version ELSE search.low END,
           CASE WHEN event.recorded_at <= $3 THEN search.high ELSE event.version - 1 END
      FROM search
      JOIN events AS event
        ON event.slice = $1 AND event.thread_id = $2
       AND event.version = search.low + (search.high - search.low + 1) / 2
     WHERE search.low < search.high
)
SELECT low AS version FROM search WHERE low = high
"""
"""The last version recorded at or before an instant.

Times never run backwards inside a thread, so the interval that holds the answer is halved until one is left: some
20 look-ups in a thread of a million events.
"""

SAVE_SNAPSHOT = """
INSERT INTO snapshots (slice, thread_id, version, tenant, hash, at, fingerprint, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (slice, thread_id, version)
    DO UPDATE SET hash = excluded.hash, at = excluded.at, fingerprint = excluded.fingerprint, state = excluded.state
"""
"""Keep a snapshot, in the place of an older one of the same version."""

NEAREST_SNAPSHOT = """
SELECT tenant, thread_id, version, hash, at, fingerprint, state
  FROM snapshots
 WHERE slice = $1 AND thread_id = $2 AND version <= $3 AND fingerprint = $4
 ORDER BY version DESC
 LIMIT 1
"""
"""The last snapshot at or before a version that the same fold made."""
