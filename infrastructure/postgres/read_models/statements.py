"""The SQL statements for instances and positions of read models. A `line` is a projection group."""

LOCK = "SELECT pg_advisory_xact_lock($1)"
"""Be the only process that changes which instances exist and serve."""

HURRY = "SET LOCAL lock_timeout = '1s'"
"""Give up soon if a query reads the view: later queries queue behind this transaction's lock."""

_INSTANCES = "SELECT id, projection, version, line, status, created_at FROM read_models.instances"

INSTANCES = f"{_INSTANCES} ORDER BY id"
"""All instances, the oldest first."""

BUILDING = f"{_INSTANCES} WHERE line = $1 AND status = 'building' ORDER BY id"
"""The instances that a line builds."""

TABLES = "SELECT id, tables FROM read_models.instances WHERE line = $1 AND status = 'building'"
"""The tables of what a line builds."""

LINES = """
SELECT line.id, sum(positions.position)::bigint AS done,
       ((SELECT sum(head) FROM slices) - sum(positions.position))::bigint AS left, line.started_at, line.throttle
  FROM read_models.lines AS line
  JOIN read_models.positions ON positions.line = line.id
 GROUP BY line.id
 ORDER BY line.id
"""
"""Each line's progress. Sums are exact: a slice's positions have no gaps, and each line has all slices."""

COLUMNS = """
SELECT view.relname::text AS name, array_agg(attribute.attname::text) AS columns
  FROM pg_class AS view
  JOIN pg_attribute AS attribute ON attribute.attrelid = view.oid AND attribute.attnum > 0
 WHERE view.relnamespace = 'read_models'::regnamespace AND view.relkind = 'v'
 GROUP BY view.relname
"""
"""The columns of the views that serve."""

BEHIND = """
SELECT slices.slice, line.positions[slices.slice + 1] AS position, slices.head
  FROM slices
 CROSS JOIN (SELECT array_agg(position ORDER BY slice) AS positions FROM read_models.positions WHERE line = $1) AS line
 WHERE slices.head > line.positions[slices.slice + 1]
 ORDER BY slices.slice
"""
"""The slices in which a line is behind. A line has all slices, so one array replaces a thousand look-ups: measured, a
seventh of the time. A caller that wants some slices only picks them from the few rows of the answer.
"""

POSITION = "SELECT position FROM read_models.positions WHERE line = $1 AND slice = $2"
"""A line's position in a slice."""

REACHED = """
SELECT positions.position
  FROM read_models.instances AS instance
  JOIN read_models.positions USING (line)
 WHERE instance.projection = $1 AND instance.status = 'serving' AND positions.slice = $2
"""
"""The serving instance's position in a slice."""

MOVE = """
WITH quick AS (
    SELECT set_config('synchronous_commit', 'off', true)
), line AS (
    SELECT id
      FROM read_models.lines, quick
     WHERE id = $1 AND (paused_until IS NULL OR paused_until < clock_timestamp())
       FOR SHARE OF lines
)
UPDATE read_models.positions
   SET position = move.upto
  FROM line, unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS move (slice, after, upto)
 WHERE positions.line = line.id AND positions.slice = move.slice AND positions.position = move.after
RETURNING positions.slice
"""
"""Move a line in some slices by compare-and-set. Fewer rows come back if it is at another position, or is paused.

The line's row is locked in share mode until the commit, so that PAUSE waits for writes in progress.
"""

HOLD = """
SELECT positions.position
  FROM read_models.positions
  JOIN read_models.instances AS instance USING (line)
 WHERE instance.id = $1 AND positions.slice = $2
   FOR UPDATE OF positions
"""
"""Lock the position of an instance's line in a slice until the transaction ends."""

ON_LINE = """
SELECT instance.id, parked.thread_id
  FROM read_models.instances AS instance
  LEFT JOIN read_models.parked ON parked.instance = instance.id AND parked.slice = ANY ($2::smallint[])
 WHERE instance.line = $1
"""
"""A line's instances with their parked threads in some slices. One without any has a row with a null thread."""

PARKED = """
SELECT instance, thread_id, version, position, type, error, attempts, at
  FROM read_models.parked
 WHERE instance = ANY ($1::integer[]) AND slice = ANY ($2::smallint[])
 ORDER BY at, thread_id
"""
"""The parked threads of some slices, the longest parked first."""

PARK = """
INSERT INTO read_models.parked (instance, thread_id, version, position, type, error, attempts, at, slice)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
"""Park a thread from an event on."""

UNPARK = """
DELETE FROM read_models.parked
 WHERE instance = $1 AND slice = $2 AND thread_id = $3 AND version = $4 AND attempts = $5
RETURNING instance
"""
"""Unpark a thread, if it is still parked at the same version after as many attempts."""

NEW_LINE = """
WITH line AS (
    INSERT INTO read_models.lines (throttle) VALUES ($1) RETURNING id
), positions AS (
    INSERT INTO read_models.positions (line, slice) SELECT line.id, slices.slice FROM line, slices
)
SELECT id FROM line
"""
"""Create a line at the beginning of every slice."""

COPY_LINE = """
WITH line AS (
    INSERT INTO read_models.lines (throttle) SELECT throttle FROM read_models.lines WHERE id = $1 RETURNING id
), copied AS (
    INSERT INTO read_models.positions (line, slice, position)
    SELECT line.id, old.slice, old.position FROM line, read_models.positions AS old WHERE old.line = $1
)
SELECT id FROM line
"""
"""Create a line at the positions of another one."""

MOVE_INSTANCE = "UPDATE read_models.instances SET line = $2 WHERE id = $1"
"""Move an instance to another line."""

NEW_INSTANCE = """
INSERT INTO read_models.instances (projection, version, line, status, tables)
VALUES ($1, $2, $3, CASE $4 WHEN 'serving' THEN 'kept' ELSE $4 END, $5)
RETURNING id, projection, version, line, status, created_at
"""
"""Create an instance. SERVE is what makes one serve."""

KEEP_SHAPE = "UPDATE read_models.instances SET shown = shown || $2::text[] WHERE id = $1"
"""Store the statements that show an instance: a later process may not have the code that knows its shape."""

LOCK_LINES = "SELECT FROM read_models.lines WHERE id = ANY ($1::integer[]) ORDER BY id FOR UPDATE"
"""Wait for writes of some lines to end, and block them until the transaction ends."""

TO_REPLACE = """
SELECT DISTINCT serving.line
  FROM read_models.instances AS building
  JOIN read_models.instances AS serving USING (projection)
 WHERE building.line = $1 AND building.status = 'building' AND serving.status = 'serving'
"""
"""The lines of the instances that a line's instances are to replace."""

PAUSE = """
UPDATE read_models.lines
   SET paused_until = clock_timestamp() + $2 * interval '1 second'
 WHERE id = ANY ($1::integer[])
"""
"""Refuse writes of some lines for some seconds. Waits for writes in progress."""

GO_ON = "UPDATE read_models.lines SET paused_until = NULL WHERE id = ANY ($1::integer[])"
"""End the pause of some lines."""

IS_BEHIND = """
SELECT EXISTS (
    SELECT FROM read_models.positions AS other
     CROSS JOIN (
           SELECT array_agg(position ORDER BY slice) AS positions FROM read_models.positions WHERE line = $1
           ) AS one
     WHERE other.line = ANY ($2::integer[]) AND one.positions[other.slice + 1] < other.position)
"""
"""Whether a line is behind any of some others in any slice. A join of the rows takes tens of milliseconds instead."""

KEEP = "UPDATE read_models.instances SET status = 'kept' WHERE projection = $1 AND status = 'serving'"
"""Make a projection's serving instance a kept one."""

SERVE = (
    "UPDATE read_models.instances SET status = 'serving', served_at = clock_timestamp() WHERE id = $1 RETURNING shown"
)
"""Make an instance serve. Returns the statements that show it."""

LAST_KEPT = """
SELECT kept.id, kept.projection, kept.version, kept.line, kept.status, kept.created_at, serving.line AS serving
  FROM read_models.instances AS kept
  JOIN read_models.instances AS serving USING (projection)
 WHERE kept.projection = $1 AND kept.status = 'kept' AND serving.status = 'serving'
 ORDER BY kept.served_at DESC NULLS LAST
 LIMIT 1
"""
"""The instance that served before, and the line of the one that serves now."""

LINE_OF = "SELECT line FROM read_models.instances WHERE id = $1"
"""An instance's line."""

FORGET = """
DELETE FROM read_models.instances
 WHERE id = $1 AND (status <> 'serving' OR $2)
RETURNING tables, status = 'serving' AS served
"""
"""Delete an instance; one that serves only if $2 is true."""

FORGET_LINES = """
DELETE FROM read_models.lines
 WHERE NOT EXISTS (SELECT FROM read_models.instances WHERE instances.line = lines.id)
"""
"""Delete lines without instances."""
