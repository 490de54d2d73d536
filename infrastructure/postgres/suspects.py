"""Suspects on PostgreSQL. The claim of a shard counts the shared crashes: see `leases.CLAIM`."""

from collections.abc import Collection, Mapping

from domain.ids import Shard, ThreadId, slice_of
from domain.ports.suspects import Suspect
from infrastructure.postgres.retry import Store
from infrastructure.postgres.thread_columns import slices_in

SUSPECTS = """
WITH over AS (
    DELETE FROM suspects AS suspect
     USING threads AS thread
     WHERE (suspect.slice = ANY ($1::smallint[]) OR suspect.thread_id = ANY ($2::uuid[]))
       AND thread.slice = suspect.slice AND thread.thread_id = suspect.thread_id AND NOT thread.in_turn
)
SELECT suspect.thread_id, suspect.crashes, suspect.alone, suspect.version
  FROM suspects AS suspect
  JOIN threads AS thread USING (slice, thread_id)
 WHERE (suspect.slice = ANY ($1::smallint[]) OR suspect.thread_id = ANY ($2::uuid[]))
   AND thread.in_turn
"""
"""Suspects that have something to run; the others are deleted."""

CRASHED_ALONE = """
INSERT INTO suspects (slice, thread_id, alone, version)
SELECT slice, thread_id, 1, version FROM threads WHERE slice = $1 AND thread_id = $2
    ON CONFLICT (slice, thread_id) DO UPDATE SET alone = suspects.alone + 1, version = excluded.version
RETURNING crashes, alone, version
"""

CLEARED = "DELETE FROM suspects WHERE slice = $1 AND thread_id = $2"


class PostgresSuspects(Store):
    """`Suspects` on a migrated database."""

    async def of(self, shards: Collection[Shard], threads: Collection[ThreadId] = ()) -> Mapping[ThreadId, Suspect]:
        rows = await self._fetch(SUSPECTS, slices_in(shards), list(threads))
        return {thread_id: Suspect(*suspect) for thread_id, *suspect in rows}

    async def crashed_alone(self, thread_id: ThreadId) -> Suspect:
        (row,) = await self._fetch(CRASHED_ALONE, slice_of(thread_id), thread_id)
        return Suspect(*row)

    async def cleared(self, thread_id: ThreadId) -> None:
        await self._fetch(CLEARED, slice_of(thread_id), thread_id)
