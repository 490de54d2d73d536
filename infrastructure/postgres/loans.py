"""Loans of turns on PostgreSQL."""

from collections.abc import Collection, Sequence

from domain.ids import Shard, ThreadId, WorkerId, slice_of
from domain.ports.loans import Loan
from domain.ports.log import Fence
from infrastructure.postgres.retry import Store

LEND = """
WITH before AS (
    SELECT worker.id, worker.expires_at <= now() AS crashed
      FROM loans
      JOIN workers AS worker ON worker.id = loans.worker
     WHERE loans.slice = $1 AND loans.thread_id = $2
), blamed AS (
    INSERT INTO suspects (slice, thread_id, crashes, version)
    SELECT thread.slice, thread.thread_id, 1, thread.version
      FROM before
      JOIN threads AS thread ON thread.slice = $1 AND thread.thread_id = $2
     WHERE before.crashed AND before.id <> $6
        ON CONFLICT (slice, thread_id) DO UPDATE SET crashes = suspects.crashes + 1, version = excluded.version
)
INSERT INTO loans (slice, thread_id, tenant, shard, epoch, worker)
VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (slice, thread_id)
    DO UPDATE SET tenant = excluded.tenant, shard = excluded.shard, epoch = excluded.epoch, worker = excluded.worker
"""
"""Lend a thread. A worker that left has deleted its row; a worker that crashed has not, and its lease has expired."""

LENT_TO = """
SELECT loan.thread_id, loan.tenant, loan.shard, loan.epoch, loan.worker, thread.in_turn
  FROM loans AS loan
  JOIN leases AS lease ON lease.purpose = 'turns' AND lease.shard = loan.shard AND lease.epoch = loan.epoch
  JOIN threads AS thread ON thread.slice = loan.slice AND thread.thread_id = loan.thread_id
 WHERE loan.worker = $1
"""
"""The loans to a worker under current epochs."""

LENT_FROM = """
SELECT loan.thread_id
  FROM loans AS loan
  JOIN leases AS lease ON lease.purpose = 'turns' AND lease.shard = loan.shard AND lease.epoch = loan.epoch
 WHERE loan.shard = ANY ($1::smallint[])
"""

GIVE_BACK = """
DELETE FROM loans
 WHERE slice = $1 AND thread_id = $2 AND worker = $3
   AND NOT EXISTS (SELECT FROM threads WHERE slice = $1 AND thread_id = $2 AND in_turn)
"""


class PostgresLoans(Store):
    """`Loans` on a migrated database."""

    async def lend(self, loan: Loan) -> None:
        slice_, fence = slice_of(loan.thread_id), loan.fence
        await self._fetch(LEND, slice_, loan.thread_id, loan.tenant, fence.shard, fence.epoch, loan.worker)

    async def lent_to(self, worker: WorkerId) -> Sequence[Loan]:
        rows = await self._fetch(LENT_TO, worker)
        return [Loan(thread_id, tenant, Fence(shard, epoch), *rest) for thread_id, tenant, shard, epoch, *rest in rows]

    async def lent_from(self, shards: Collection[Shard]) -> Collection[ThreadId]:
        return {ThreadId(row["thread_id"]) for row in await self._fetch(LENT_FROM, list(shards))}

    async def give_back(self, worker: WorkerId, thread_id: ThreadId) -> None:
        await self._fetch(GIVE_BACK, slice_of(thread_id), thread_id, worker)
