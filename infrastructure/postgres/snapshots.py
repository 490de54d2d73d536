"""Snapshots on PostgreSQL."""

import asyncpg

from domain.ids import MAX_VERSION, ThreadId, Version, slice_of
from domain.ports.snapshots import Snapshot
from infrastructure.postgres.log.rows import snapshot_of
from infrastructure.postgres.retry import fetch
from infrastructure.postgres.statements import NEAREST_SNAPSHOT, SAVE_SNAPSHOT


class PostgresSnapshotStore:
    """A `SnapshotStore` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def save(self, snapshot: Snapshot) -> None:
        thread_id, head = snapshot.thread_id, snapshot.head
        place = (slice_of(thread_id), thread_id, head.version, snapshot.tenant, head.hash, head.at)
        await fetch(self._pool, SAVE_SNAPSHOT, *place, snapshot.fingerprint, snapshot.state)

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        last = MAX_VERSION if upto is None else upto
        rows = await fetch(self._pool, NEAREST_SNAPSHOT, slice_of(thread_id), thread_id, last, fingerprint)
        return snapshot_of(rows[0]) if rows else None
