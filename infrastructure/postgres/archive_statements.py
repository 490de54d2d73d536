"""SQL statements for exports and imports of a whole log."""

COMMANDS = """
SELECT tenant, thread_id, command_id, request_hash, result, at
  FROM commands
 WHERE (slice, command_id)
     > (coalesce($1, -1::smallint), coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid))
 ORDER BY slice, command_id
 LIMIT $3
"""
"""A page of all commands after one of them (null: from the first); no slice is -1."""

STRAY_COMMAND = """
SELECT tenant, thread_id, command_id, request_hash, result, at
  FROM commands AS command
 WHERE NOT EXISTS (SELECT FROM threads AS thread
                    WHERE thread.slice = command.slice AND thread.thread_id = command.thread_id
                      AND thread.tenant = command.tenant)
 LIMIT 1
"""
"""A command that has no thread of its tenant."""

EMPTY_SLICES = "SELECT head FROM slices ORDER BY slice FOR UPDATE"
"""Lock every slice against appends, in the order in which appends lock them."""

WRITTEN_BEFORE = "SELECT EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM threads) OR EXISTS (SELECT FROM commands)"
"""Whether the log has any rows."""

SET_HEADS = """
UPDATE slices
   SET head = given.head
  FROM unnest($1::smallint[], $2::bigint[]) AS given (slice, head)
 WHERE slices.slice = given.slice AND given.head > 0
"""
"""Set the heads of slices."""

THREAD_ENDS = """
SELECT first.tenant, first.thread_id, last.version, last.hash, last.recorded_at AS at, first.recorded_at AS opened_at,
       false AS in_turn, false AS waiting, first.version - 1 AS base, last.type AS last_type
  FROM (SELECT DISTINCT ON (thread_id) tenant, thread_id, version, recorded_at
          FROM events
         WHERE slice = $1 AND thread_id >= coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
           AND thread_id IS DISTINCT FROM $2
         ORDER BY thread_id, version
         LIMIT $3) AS first
 CROSS JOIN LATERAL (
       SELECT version, hash, recorded_at, type
         FROM events
        WHERE slice = $1 AND thread_id = first.thread_id AND thread_key(thread_id) = thread_key(first.thread_id)
        ORDER BY version DESC
        LIMIT 1
       ) AS last
 ORDER BY first.thread_id
"""
"""The first and the last events of a slice's threads after one of them (null: from the first), to make their rows of.

Null, and not the nil UUID, means "before all others": clients choose ids, and may choose the nil UUID.
"""
