-- Verifies the whole log with nothing but PostgreSQL: psql "$DATABASE_URL" -f docs/verify.sql
--
-- Every event's hash is SHA-256 over the previous event's hash (32 zero bytes before the first event; before the first of
-- a fork, the hash of the parent's event at which it begins), followed by tenant, thread id, version, type, schema version,
-- time, metadata and payload, joined by newlines, in UTF-8. If the metadata began with the causation or the command, that
-- is in the column causation; zeros there mean that the metadata are complete.
-- Lists each fault in a row. No row: the log is as it was written.
WITH linked AS (
    SELECT event.slice, event.thread_id, event.version, event.position, event.hash, event.tenant, event.recorded_at,
           first_value(event.version) OVER thread - 1 AS base, first_value(event.recorded_at) OVER thread AS opened_at,
           lag(event.version, 1, coalesce(parent.version, 0)) OVER thread AS previous_version,
           lag(event.recorded_at, 1, event.recorded_at) OVER thread > event.recorded_at AS runs_backwards,
           lead(event.version) OVER thread IS NULL AS is_last,
           sha256(
               lag(event.hash, 1, coalesce(parent.hash, decode(repeat('00', 32), 'hex'))) OVER thread
               || convert_to(
                   event.tenant || E'\n' || event.thread_id || E'\n' || event.version || E'\n' || event.type
                   || E'\n' || event.schema || E'\n'
                   || to_char(event.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   || E'\n'
                   || CASE WHEN event.causation = '00000000-0000-0000-0000-000000000000' THEN event.metadata::text
                           WHEN starts_with(event.metadata::text, '{"command":null')
                           THEN '{"command":"' || event.causation || '"' || substr(event.metadata::text, 16)
                           ELSE '{"causation":"' || event.causation || '"'
                                || CASE event.metadata::text WHEN '{}' THEN '' ELSE ',' END
                                || substr(event.metadata::text, 2)
                      END
                   || E'\n' || event.payload::text,
                   'UTF8'
               )
           ) AS computed
      FROM events AS event
      LEFT JOIN events AS parent
        ON event.type = 'ThreadForked'
       AND parent.thread_id = (event.payload->>'parent')::uuid
       AND parent.version = (event.payload->>'at_version')::integer
    WINDOW thread AS (PARTITION BY event.slice, event.thread_id ORDER BY event.version)
), slice_ends AS (
    SELECT slice, count(*) AS events, min(position) AS first, max(position) AS last FROM events GROUP BY slice
)
SELECT slice, thread_id, version, 'version ' || previous_version + 1 || ' is missing before it' AS fault
  FROM linked
 WHERE version <> previous_version + 1
 UNION ALL
SELECT slice, thread_id, version, 'it was changed after it was written'
  FROM linked
 WHERE version = previous_version + 1 AND hash <> computed
 UNION ALL
SELECT slice, thread_id, version, 'its time is before the previous event''s'
  FROM linked
 WHERE runs_backwards
 UNION ALL
SELECT slice, thread_id, coalesce(threads.version, linked.version), 'the thread''s head and its last event differ'
  FROM (SELECT * FROM linked WHERE is_last) AS linked FULL JOIN threads USING (slice, thread_id)
 WHERE (linked.version, linked.hash) IS DISTINCT FROM (threads.version, threads.hash)
 UNION ALL
SELECT slice, thread_id, threads.version, 'the thread''s tenant, base, opened_at or at is not what its events say'
  FROM (SELECT * FROM linked WHERE is_last) AS linked JOIN threads USING (slice, thread_id)
 WHERE (linked.version, linked.hash) = (threads.version, threads.hash)
   AND (linked.tenant, linked.base, linked.opened_at, linked.recorded_at)
       <> (threads.tenant, threads.base, threads.opened_at, threads.at)
 UNION ALL
SELECT slice, NULL, NULL, 'the slice''s head is ' || head || ', its events end at ' || coalesce(last, 0)
  FROM slices LEFT JOIN slice_ends USING (slice)
 WHERE head <> coalesce(last, 0)
 UNION ALL
SELECT slice, NULL, NULL, 'positions are missing between ' || first || ' and ' || last
  FROM slice_ends
 WHERE first <> 1 OR events <> last
 ORDER BY slice, thread_id, version;
