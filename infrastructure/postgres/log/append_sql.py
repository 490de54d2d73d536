"""The append statement.

Its parameters get names at once (`asked`, `event`), so that the rest does not refer to them by number.
"""

APPEND = """
WITH asked AS (
    SELECT *, version - expected_version AS size
      FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::integer[], $5::bytea[], $6::integer[], $7::bytea[],
                  $8::timestamptz[], $9::timestamptz[], $10::boolean[], $11::boolean[], $12::boolean[],
                  $13::uuid[], $14::bytea[], $15::json[], $16::smallint[], $17::bigint[])
           WITH ORDINALITY AS asked (slice, thread_id, tenant, expected_version, expected_hash, version, hash,
                                     opened_at, at, in_turn, waiting, forked,
                                     command_id, request_hash, result, shard, epoch, number)
     WHERE NOT EXISTS (SELECT FROM commands AS seen
                        WHERE seen.slice = asked.slice AND seen.command_id = asked.command_id)
       AND NOT EXISTS (SELECT FROM leases AS newer
                        WHERE newer.purpose = 'turns' AND newer.shard = asked.shard AND newer.epoch > asked.epoch)
), opened AS (
    INSERT INTO threads (slice, thread_id, tenant, version, base, hash, opened_at, at, in_turn, waiting, epoch)
    SELECT slice, thread_id, tenant, version, expected_version, hash, opened_at, at, in_turn, waiting,
           coalesce(epoch, 0)
      FROM asked
     WHERE size > 0
       AND (forked OR expected_version = 0 AND expected_hash = decode(repeat('00', 32), 'hex'))
        ON CONFLICT (slice, thread_id) DO NOTHING
    RETURNING slice, thread_id
), moved AS (
    UPDATE threads AS thread
       SET version = asked.version, hash = asked.hash, at = asked.at,
           in_turn = asked.in_turn, waiting = asked.waiting, epoch = coalesce(asked.epoch, thread.epoch)
      FROM asked
     WHERE thread.slice = asked.slice AND thread.thread_id = asked.thread_id AND thread.tenant = asked.tenant
       AND thread.version = asked.expected_version AND thread.hash = asked.expected_hash AND NOT asked.forked
       AND coalesce(asked.epoch >= thread.epoch, true)
    RETURNING asked.*
), head AS (
    SELECT * FROM moved UNION ALL SELECT asked.* FROM opened JOIN asked USING (slice, thread_id)
), remembered AS (
    INSERT INTO commands (slice, command_id, tenant, thread_id, request_hash, result)
    SELECT slice, command_id, tenant, thread_id, request_hash, result
      FROM head
     WHERE command_id IS NOT NULL AND size > 0
), noted AS (
    INSERT INTO commands (slice, command_id, tenant, thread_id, request_hash, result)
    SELECT slice, command_id, tenant, thread_id, request_hash, result
      FROM head
     WHERE command_id IS NOT NULL AND size = 0
        ON CONFLICT (slice, command_id) DO NOTHING
    RETURNING slice, thread_id
), accepted AS (
    SELECT number, slice, size
      FROM head
     WHERE size > 0 OR command_id IS NULL OR (slice, thread_id) IN (SELECT slice, thread_id FROM noted)
), growing AS (
    SELECT slice, sum(size) AS size FROM accepted WHERE size > 0 GROUP BY slice
), locked AS (
    SELECT slices.slice
      FROM slices
     WHERE slices.slice IN (SELECT slice FROM growing)
     ORDER BY slices.slice
       FOR UPDATE
), placed AS (
    UPDATE slices
       SET head = slices.head + growing.size
      FROM growing JOIN locked USING (slice)
     WHERE slices.slice = growing.slice
    RETURNING slices.slice, slices.head - growing.size AS before
), given AS (
    SELECT number,
           CASE WHEN size > 0
                THEN (before + sum(size) OVER (PARTITION BY slice ORDER BY number) - size + 1)::bigint
                ELSE 0
            END AS position
      FROM accepted LEFT JOIN placed USING (slice)
), places AS (
    SELECT array_agg(given.position ORDER BY number) AS positions
      FROM unnest($1::smallint[]) WITH ORDINALITY AS each (slice, number)
      LEFT JOIN given USING (number)
), recorded AS (
    INSERT INTO events (slice, thread_id, version, position, tenant, type, schema, payload, metadata, causation,
                        recorded_at, hash)
    SELECT ($1::smallint[])[number], ($2::uuid[])[number],
           ($4::integer[])[number] + place, positions[number] + place - 1, ($3::text[])[number],
           type, schema, payload, metadata, causation, recorded_at, hash
      FROM places
     CROSS JOIN unnest($18::integer[], $19::integer[], $20::text[], $21::smallint[], $22::json[], $23::json[],
                       $24::uuid[], $25::timestamptz[], $26::bytea[])
           AS event (number, place, type, schema, payload, metadata, causation, recorded_at, hash)
     WHERE positions[number] IS NOT NULL
)
SELECT number, position FROM given
"""
"""Append to several threads: move each thread's head, then the slices' heads, and store the events.

An append is refused, and the others are stored, if its command was stored before, its lease or its thread has a newer
epoch, or its thread's head is not the expected one. A refused append returns no row. Only one conflict fails the whole
group: another process has stored the same command, with events, since `asked` was evaluated (`commands_pkey`). Then
the group is divided.

Locks. Appends are given in the order of slice and thread, and threads' rows are locked in that order. `growing` reads
every accepted thread before the first slice is locked, and slices are locked in their order. So two groups do not
deadlock. A statement that waited for a row continues with its newest version, not with the statement's snapshot: READ
COMMITTED re-checks the WHERE of an UPDATE, and computes its RETURNING, on the newest row. The slices' locks are held
until the commit. Therefore positions appear without gaps, in the order of the commits.

Events find their append by its number in the arrays and in `places`, not by a join. Sessions may not hash
(`pool.PLANNER`), so a join would be a nested loop, and take most of a large group's time.

Fencing. The epoch of the lease is read in the statement's snapshot, which may be stale by the time the thread's row is
locked. `threads.epoch` is a fencing token on that row itself, so it is compared when the row is locked. A worker that
takes over a shard raises it before it relies on the log (see `FENCE`); its own appends raise it as well.

Each slice's part of a group is a complete statement of the same form: on a cluster that is distributed by slice, the
parts can be sent one by one. No two appends of a group are for the same thread.
"""
