"""Leases on PostgreSQL, by its clock. Each method is one statement."""

from collections.abc import Collection, Sequence

import asyncpg

from domain.ids import Shard, WorkerId
from domain.ports.leases import Lease, Standing, WorkerRow
from infrastructure.postgres.retry import fetch

RENEW = """
WITH here AS (
    INSERT INTO workers (id, name, standby, started_at, seen_at, expires_at)
    VALUES ($1, $2, $3, now(), now(), now() + $4 * interval '1 second')
        ON CONFLICT (id) DO UPDATE SET standby = excluded.standby, seen_at = now(), expires_at = excluded.expires_at
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
    SELECT shard, epoch
      FROM leases
     WHERE purpose = 'turns' AND (owner IS NULL OR expires_at <= now())
     ORDER BY random()
     LIMIT $3
       FOR UPDATE SKIP LOCKED
)
UPDATE leases
   SET owner = $1, epoch = leases.epoch + 1, since = now(), expires_at = now() + $2 * interval '1 second'
  FROM free
 WHERE leases.purpose = 'turns' AND leases.shard = free.shard AND leases.epoch = free.epoch
RETURNING leases.shard, leases.epoch, leases.since
"""
"""Take free shards at random, so that workers which come at once do not all try the same ones."""

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

FORGET_ALL = """
WITH freed AS (
    UPDATE leases SET owner = NULL, expires_at = NULL WHERE purpose = 'turns' AND owner IS NOT NULL
)
DELETE FROM workers
"""

WORKERS = """
SELECT worker.id, worker.name, worker.started_at, worker.seen_at, worker.standby,
       array(SELECT shard
               FROM leases
              WHERE purpose = 'turns' AND owner = worker.id AND expires_at > now()
              ORDER BY shard) AS shards
  FROM workers AS worker
 WHERE worker.expires_at > now()
 ORDER BY worker.started_at, worker.id
"""


class PostgresLeaseStore:
    """A `LeaseStore` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use a pool's connections. Whoever opened it closes it."""
        self._pool = pool

    async def renew(self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False) -> Standing:
        """Keep a worker and its leases."""
        rows = await fetch(self._pool, RENEW, worker, name, standby, ttl)
        leases = tuple(_lease(row) for row in rows if row["shard"] is not None)
        return Standing(leases, rows[0]["workers"])

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Take what is free."""
        return [_lease(row) for row in await fetch(self._pool, CLAIM, worker, ttl, limit)]

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Free what the worker still has of these."""
        await fetch(self._pool, RELEASE, worker, list(shards))

    async def leave(self, worker: WorkerId) -> None:
        """Free everything, and forget the worker."""
        await fetch(self._pool, LEAVE, worker)

    async def forget_all(self) -> None:
        """Free everything, whoever has it: for a process that knows itself to be the only one."""
        await fetch(self._pool, FORGET_ALL)

    async def workers(self) -> Sequence[WorkerRow]:
        """List who is alive."""
        rows = await fetch(self._pool, WORKERS)
        return [
            WorkerRow(row["id"], row["name"], row["started_at"], row["seen_at"], row["standby"], tuple(row["shards"]))
            for row in rows
        ]


def _lease(row: asyncpg.Record) -> Lease:
    return Lease(row["shard"], row["epoch"], row["since"])
