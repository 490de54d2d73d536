"""Leases on PostgreSQL, by the database's clock. Each method is one statement."""

from collections.abc import Collection, Sequence

import asyncpg

from domain.ids import SHARDS, SLICES, Shard, WorkerId
from domain.ports.leases import Lease, WorkerRow, WorkerShare
from infrastructure.postgres.retry import Store

RENEW = """
WITH here AS (
    INSERT INTO workers (id, name, standby, started_at, seen_at, expires_at, agents)
    VALUES ($1, $2, $3, now(), now(), now() + $4 * interval '1 second', $5)
        ON CONFLICT (id) DO UPDATE
        SET standby = excluded.standby, seen_at = now(), expires_at = excluded.expires_at, agents = excluded.agents
    RETURNING standby
), kept AS (
    UPDATE leases SET expires_at = now() + $4 * interval '1 second'
     WHERE purpose = 'turns' AND owner = $1
    RETURNING shard, epoch, since
), gone AS (
    DELETE FROM workers WHERE expires_at < now() - interval '1 hour'
), others AS (
    SELECT count(*) AS workers FROM workers WHERE id <> $1 AND expires_at > now() AND NOT standby
)
SELECT others.workers + (NOT here.standby)::integer AS workers, kept.shard, kept.epoch, kept.since
  FROM here CROSS JOIN others LEFT JOIN kept ON true
 ORDER BY kept.shard
"""

CLAIM = """
WITH free AS (
    SELECT shard, epoch, owner IS NOT NULL AS crashed
      FROM leases
     WHERE purpose = 'turns' AND (owner IS NULL OR expires_at <= now())
     ORDER BY random()
     LIMIT $3
       FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE leases
       SET owner = $1, epoch = leases.epoch + 1, since = now(), expires_at = now() + $2 * interval '1 second'
      FROM free
     WHERE leases.purpose = 'turns' AND leases.shard = free.shard AND leases.epoch = free.epoch
    RETURNING leases.shard, leases.epoch, leases.since, free.crashed
), blamed AS (
    INSERT INTO suspects (slice, thread_id, crashes, version)
    SELECT thread.slice, thread.thread_id, 1, thread.version
      FROM taken
      JOIN threads AS thread
        ON thread.in_turn AND thread.slice BETWEEN taken.shard * $4::smallint AND (taken.shard + 1) * $4 - 1
     WHERE taken.crashed
        ON CONFLICT (slice, thread_id) DO UPDATE SET crashes = suspects.crashes + 1, version = excluded.version
), ended AS (
    DELETE FROM loans USING taken WHERE loans.shard = taken.shard
)
SELECT shard, epoch, since,
       array(SELECT head
               FROM slices
              WHERE slice BETWEEN taken.shard * $4::smallint AND (taken.shard + 1) * $4 - 1
              ORDER BY slice) AS heads
  FROM taken
"""
"""Take free shards at random, so that workers that start at once do not compete for the same ones.

An expired lease still has an owner, which did not release it: a crash is counted for each turn that it may have run.
"""

RELEASE = """
UPDATE leases SET owner = NULL, expires_at = NULL
 WHERE purpose = 'turns' AND owner = $1 AND shard = ANY ($2::smallint[])
"""

LEAVE = """
WITH freed AS (
    UPDATE leases SET owner = NULL, expires_at = NULL WHERE purpose = 'turns' AND owner = $1
)
DELETE FROM workers WHERE id = $1
"""

EXPIRE_ALL = """
WITH ended AS (
    UPDATE leases SET expires_at = now() WHERE purpose = 'turns' AND owner IS NOT NULL
)
UPDATE workers SET expires_at = now() WHERE expires_at > now()
"""

WORKERS = """
SELECT worker.id, worker.name, worker.started_at, worker.seen_at, worker.standby,
       array(SELECT shard
               FROM leases
              WHERE purpose = 'turns' AND owner = worker.id AND expires_at > now()
              ORDER BY shard) AS shards,
       worker.agents
  FROM workers AS worker
 WHERE worker.expires_at > now()
 ORDER BY worker.started_at, worker.id
"""


class PostgresLeaseStore(Store):
    """A `LeaseStore` on a migrated database."""

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        rows = await self._fetch(RENEW, worker, name, standby, ttl, sorted(agents))
        leases = tuple(_lease(row) for row in rows if row["shard"] is not None)
        return WorkerShare(leases, rows[0]["workers"])

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        return [_lease(row) for row in await self._fetch(CLAIM, worker, ttl, limit, SLICES // SHARDS)]

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        await self._fetch(RELEASE, worker, list(shards))

    async def leave(self, worker: WorkerId) -> None:
        await self._fetch(LEAVE, worker)

    async def expire_all(self) -> None:
        """Expire every lease now: for a process that knows that every other worker is dead."""
        await self._fetch(EXPIRE_ALL)

    async def workers(self) -> Sequence[WorkerRow]:
        return [
            WorkerRow(id_, name, started_at, seen_at, standby, tuple(shards), tuple(agents))
            for id_, name, started_at, seen_at, standby, shards, agents in await self._fetch(WORKERS)
        ]


def _lease(row: asyncpg.Record) -> Lease:
    return Lease(row["shard"], row["epoch"], row["since"], tuple(row.get("heads", ())))
