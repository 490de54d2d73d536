"""SQL statements of the stores, except those of `log.append_sql` and `archive_statements`."""

from infrastructure.postgres.log.metadata_columns import METADATA

RECORD = f"tenant, thread_id, version, type, schema, payload, {METADATA}, recorded_at, hash, position"
"""The columns of an event, in the order of the fields of `Record`."""

COLUMNS = "tenant, thread_id, version, type, schema, payload, metadata, recorded_at, hash, position"
"""The same columns, where a subquery has already selected them."""

SIZE = """CASE WHEN pg_column_compression(payload) IS NULL THEN pg_column_size(payload)
            ELSE octet_length(payload::text)
       END"""
"""The size of a payload in bytes. Only a compressed one has to be read for that."""

OF_THREAD = """thread_key(thread_id) = (SELECT thread_key($2))
   AND slice = (SELECT $1::smallint) AND thread_id = (SELECT $2::uuid)"""
"""The condition that an event belongs to a thread. The index is on a key of eight bytes, which two threads may share.

The subqueries hide the values from the planner. If it knew how long this thread is, it would replan each statement,
which takes twice as long as reading the events.
"""

VERSIONS_OF_THREAD = f"{OF_THREAD} AND version > (SELECT $3::integer) AND version <= (SELECT $4::integer)"

READ = f"""
SELECT {RECORD} FROM events WHERE {VERSIONS_OF_THREAD} ORDER BY version LIMIT $5
"""  # noqa: S608  (columns of our own)
"""A thread's events after one version and up to another, at most $5: for a few events of any size."""


def _page(where: str, order: str, limit: str, room: str) -> str:
    """Return a statement for a page of events, which ends with the event at which its payloads reach `room` bytes."""
    return f"""
SELECT {COLUMNS}
  FROM (SELECT {RECORD},
               sum({SIZE}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - {SIZE} AS before
          FROM events
         WHERE {where}
         ORDER BY {order}
         LIMIT {limit}) AS page
 WHERE before < {room}
 ORDER BY {order}
"""  # noqa: S608  (as above)


READ_PAGE = _page(VERSIONS_OF_THREAD, "version", "$5", "(SELECT $6::bigint)")
"""As READ, but the page ends at a size. $5 may be null for no other limit."""

READ_SLICE = _page("slice = $1 AND position > $2", "position", "$3", "$4::bigint")
"""A slice's events after a position, in the order of their commits: at most $3, and $4 bytes."""

READ_AT = f"""
SELECT {RECORD} FROM events WHERE {OF_THREAD} AND version = ANY (ARRAY(SELECT unnest($3::integer[]))) ORDER BY version
"""  # noqa: S608  (as above)
"""A thread's events of some versions. The array, too, is hidden from the planner."""

READ_AFTER = f"""
SELECT {COLUMNS}
  FROM (SELECT part.place, event.*,
               sum(size) OVER (ORDER BY part.place, event.position ROWS UNBOUNDED PRECEDING) - size AS before
          FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS part (slice, after, place)
         CROSS JOIN LATERAL (
               SELECT {RECORD}, {SIZE} AS size
                 FROM events
                WHERE events.slice = part.slice AND events.position > part.after
                  AND events.position <= part.after + $3::integer
               ) AS event) AS page
 WHERE before < $4::bigint
 ORDER BY place, position
"""  # noqa: S608  (as above)
"""Events of several slices, each after its own position, at most $3 of each, and $4 bytes in all: see READ_PAGE.

Positions have no gaps, so a range serves as the limit: with LIMIT, the planner may read and sort the rest of a slice.
"""

READ_SLICES = f"""
WITH looked_at AS (
    SELECT after.number, after.slice, event.position, event.wanted
      FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS after (slice, position, number)
     CROSS JOIN LATERAL (
           SELECT position, tenant = $3 AND ($4::text[] IS NULL OR type = ANY ($4)) AS wanted
             FROM events
            WHERE events.slice = after.slice AND events.position > after.position
            ORDER BY events.position
            LIMIT $6
           ) AS event
     ORDER BY after.number, event.position
     LIMIT $6
), counted AS (
    SELECT number, slice, position, wanted,
           count(*) FILTER (WHERE wanted) OVER (ORDER BY number, position) AS found
      FROM looked_at
), weighed AS (
    SELECT number, counted.slice, counted.position, counted.wanted,
           sum(coalesce(size, 0)) OVER (ORDER BY number, counted.position) - coalesce(size, 0) AS before
      FROM counted
      LEFT JOIN LATERAL (
           SELECT {SIZE} AS size
             FROM events
            WHERE counted.wanted AND events.slice = counted.slice AND events.position = counted.position
           ) AS event ON true
     WHERE found <= $5
), kept AS (
    SELECT number, slice, position, wanted,
           lead(slice) OVER (ORDER BY number, position) IS DISTINCT FROM slice AS ends_slice
      FROM weighed
     WHERE before < $7::bigint
)
SELECT kept.slice, kept.wanted, kept.ends_slice, kept.position AS seen,
       event.tenant, event.thread_id, event.version, event.type, event.schema, event.payload,
       {METADATA},
       event.recorded_at, event.hash, event.position
  FROM kept
  LEFT JOIN LATERAL (
       SELECT *
         FROM events
        WHERE kept.wanted AND events.slice = kept.slice AND events.position = kept.position
       ) AS event ON true
 WHERE kept.wanted OR kept.ends_slice
 ORDER BY kept.number, kept.position
"""  # noqa: S608  (as above)
"""A tenant's events of some types (null: all) in slices, each after its position: at most $5, of at most $6 scanned.

The events take at most $7 bytes, as in READ_PAGE.

Of the other scanned events only the last one of each slice is returned, without its content, so that the reader knows
where to continue. The inner LIMIT ends the index scan of a slice, the outer one ends the loop over the slices.
"""

RECORDED = f"SELECT position FROM events WHERE {OF_THREAD} AND version = $3 AND hash = $4"  # noqa: S608  (as above)
"""The position of the event with this hash, if it exists. The hash covers the whole history of its thread."""

SLICE_HEAD = "SELECT head FROM slices WHERE slice = $1"
"""The last position of a slice."""

SLICE_HEADS = "SELECT slice, head FROM slices ORDER BY slice"
"""The last position of every slice, at one moment."""

HASHES = """
SELECT position, hash FROM events WHERE slice = $1 AND position > $2 AND position <= $3 ORDER BY position
"""
"""The hashes of a part of a slice, in the order of their commits."""

THREAD_ROW = """
SELECT tenant, thread_id, version, hash, at, opened_at, in_turn, waiting, base FROM threads"""

THREADS_OF = f"""
{THREAD_ROW}
 WHERE slice = $1 AND thread_id >= coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
   AND thread_id IS DISTINCT FROM $2
 ORDER BY thread_id
 LIMIT $3
"""
"""A page of a slice's threads of all tenants, after one of them (null: from the first)."""

COMMAND = "SELECT command_id, request_hash, result FROM commands WHERE slice = $1 AND command_id = $2"
"""A command as it was stored."""

THREAD = f"{THREAD_ROW} WHERE slice = $1 AND thread_id = $2"
"""A thread's head."""

THREADS = f"""
{THREAD_ROW}
 WHERE tenant = $1
   AND (opened_at, thread_id)
     < (coalesce($2, 'infinity'::timestamptz), coalesce($3, '00000000-0000-0000-0000-000000000000'::uuid))
 ORDER BY opened_at DESC, thread_id DESC
 LIMIT $4
"""
"""A page of a tenant's threads after one of them (null: from the first), the latest opened first.

No thread is opened at `infinity`, so the id does not matter.
"""

RUNNABLE = f"""
{THREAD_ROW}
 WHERE in_turn AND slice = ANY ($1) AND (slice, thread_id) > ($3, $4)
 ORDER BY slice, thread_id
 LIMIT $2
"""
"""A page of the threads of some slices that have something to run, in the order of their index."""

VERSIONS = """
SELECT thread.thread_id, thread.version
  FROM unnest($1::smallint[], $2::uuid[]) AS asked (slice, thread_id)
  JOIN threads AS thread USING (slice, thread_id)
"""
"""The last versions of some threads."""

FENCED = """
SELECT FROM leases WHERE purpose = 'turns' AND shard = $1 AND epoch > $2
 UNION ALL
SELECT FROM threads WHERE slice = $3 AND thread_id = $4 AND epoch > $2
"""
"""Whether a shard, or a thread of it, has a newer epoch."""

FENCE = """
WITH asked AS (
    SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[]) AS asked (slice, thread_id, epoch)
), free AS (
    SELECT thread.slice, thread.thread_id, asked.epoch
      FROM asked JOIN threads AS thread USING (slice, thread_id)
     WHERE thread.epoch <= asked.epoch
       FOR NO KEY UPDATE OF thread SKIP LOCKED
), raised AS (
    UPDATE threads AS thread
       SET epoch = free.epoch
      FROM free
     WHERE thread.slice = free.slice AND thread.thread_id = free.thread_id AND thread.epoch < free.epoch
)
SELECT thread_id FROM free
 UNION ALL
SELECT thread_id
  FROM asked
 WHERE NOT EXISTS (SELECT FROM threads AS thread
                    WHERE thread.slice = asked.slice AND thread.thread_id = asked.thread_id)
"""
"""Raise the epochs of threads. Returns the threads to which no append under an older epoch is running or can come.

Locked rows are skipped: the statement that holds the lock may be such an append, or one may wait behind it. So this
statement never waits for a stuck append, and the caller repeats it.
"""

PROBE = """
WITH gone AS (
    DELETE FROM write_probes WHERE process <> $1 AND at < now() - interval '1 hour'
), updated AS (
    UPDATE write_probes SET at = now() WHERE process = $1 RETURNING process
), written AS (
    INSERT INTO write_probes (process, at) SELECT $1, now() WHERE NOT EXISTS (SELECT FROM updated)
)
SELECT format('%s on %s', needed.privilege, needed.name) AS missing
  FROM (VALUES ('events', 'INSERT'), ('commands', 'INSERT'), ('threads', 'INSERT'), ('threads', 'UPDATE'),
               ('slices', 'UPDATE')) AS needed (name, privilege)
 WHERE NOT has_table_privilege(needed.name, needed.privilege)
"""
"""Write this process's own row durably, and return the privileges that appends need and its role lacks."""

VERSION_AT = f"""
WITH RECURSIVE search (low, high) AS (
    SELECT base, version
      FROM threads
     WHERE slice = $1 AND thread_id = $2
     UNION ALL
    SELECT CASE WHEN event.recorded_at <= $3 THEN event.version ELSE search.low END,
           CASE WHEN event.recorded_at <= $3 THEN search.high ELSE event.version - 1 END
      FROM search
     CROSS JOIN LATERAL (
            SELECT version, recorded_at
              FROM events
             WHERE {OF_THREAD}
               AND version = search.low + (search.high - search.low + 1) / 2
             LIMIT 1
           ) AS event
     WHERE search.low < search.high
)
SELECT low AS version
  FROM search
 WHERE low = high AND low > (SELECT base FROM threads WHERE slice = $1 AND thread_id = $2)
"""  # noqa: S608  (as above)
"""The last of a thread's own versions that was recorded at or before an instant; no row if all are later.

Times never run backwards in a thread, so this is a binary search: some 20 look-ups in a thread of a million events. The
LIMIT keeps each look-up an index access: for a join without statistics, the planner would read the whole thread each
time, and compare the versions afterwards.
"""

SAVE_SNAPSHOT = """
INSERT INTO snapshots (slice, thread_id, version, tenant, hash, at, fingerprint, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (slice, thread_id, version)
    DO UPDATE SET hash = excluded.hash, at = excluded.at, fingerprint = excluded.fingerprint, state = excluded.state
"""
"""Save a snapshot; it replaces one of the same version."""

NEAREST_SNAPSHOT = """
SELECT tenant, thread_id, version, hash, at, fingerprint, state
  FROM snapshots
 WHERE slice = $1 AND thread_id = $2 AND version <= $3 AND fingerprint = $4
 ORDER BY version DESC
 LIMIT 1
"""
"""The last snapshot at or before a version with the same fold fingerprint."""

APPEND_SEAL = """
INSERT INTO seals (number, at, sizes, root, previous, public_key, signature)
SELECT $1, $2, $3, $4, $5, $6, $7
 WHERE (SELECT coalesce(max(number), 0) FROM seals) = $1::bigint - 1
    ON CONFLICT (number) DO NOTHING
RETURNING number
"""
"""Store the next seal. Returns no row if another process was faster."""

_SEALS = "SELECT number, at, sizes, root, previous, public_key, signature FROM seals"

LAST_SEAL = f"{_SEALS} ORDER BY number DESC LIMIT 1"

SEAL = f"{_SEALS} WHERE number = $1"

SEALS = f"{_SEALS} WHERE number > $1 ORDER BY number LIMIT $2"
"""A page of seals after a number."""
