-- Verifies the whole log with nothing but PostgreSQL: psql "$DATABASE_URL" -f docs/verify.sql
--
-- Every event's hash is SHA-256 over the previous event's hash (32 zero bytes before the first) followed by
-- tenant, thread id, version, type, schema version, time, metadata and payload, joined by newlines, in UTF-8.
-- Lists what is wrong, one line for each finding. No row: the log is as it was written.
WITH linked AS (
    SELECT slice, thread_id, version, position, hash,
           lag(version, 1, 0) OVER thread AS previous_version,
           lag(recorded_at, 1, recorded_at) OVER thread > recorded_at AS runs_backwards,
           lead(version) OVER thread IS NULL AS is_last,
           sha256(
               lag(hash, 1, decode(repeat('00', 32), 'hex')) OVER thread
               || convert_to(
                   tenant || E'\n' || thread_id || E'\n' || version || E'\n' || type || E'\n' || schema || E'\n'
                   || to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                   || E'\n' || metadata::text || E'\n' || payload::text,
                   'UTF8'
               )
           ) AS computed
      FROM events
    WINDOW thread AS (PARTITION BY slice, thread_id ORDER BY version)
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
SELECT slice, NULL, NULL, 'the slice''s head is ' || head || ', its events end at ' || coalesce(last, 0)
  FROM slices LEFT JOIN slice_ends USING (slice)
 WHERE head <> coalesce(last, 0)
 UNION ALL
SELECT slice, NULL, NULL, 'positions are missing between ' || first || ' and ' || last
  FROM slice_ends
 WHERE first <> 1 OR events <> last
 ORDER BY slice, thread_id, version;
