"""Snapshots on PostgreSQL."""

from domain.ids import MAX_VERSION, ThreadId, Version, slice_of
from domain.log.hash_chain import Head
from domain.ports.snapshots import Snapshot
from infrastructure.postgres.retry import Store
from infrastructure.postgres.statements import NEAREST_SNAPSHOT, SAVE_SNAPSHOT


class PostgresSnapshotStore(Store):
    """A `SnapshotStore` on a migrated database."""

    async def save(self, snapshot: Snapshot) -> None:
        thread_id, head = snapshot.thread_id, snapshot.head
        place = (slice_of(thread_id), thread_id, head.version, snapshot.tenant, head.hash, head.at)
        await self._fetch(SAVE_SNAPSHOT, *place, snapshot.fingerprint, snapshot.state)

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        last = MAX_VERSION if upto is None else upto
        rows = await self._fetch(NEAREST_SNAPSHOT, slice_of(thread_id), thread_id, last, fingerprint)
        if not rows:
            return None
        tenant, _, version, digest, at, *rest = rows[0]
        return Snapshot(tenant, thread_id, Head(version, digest, at), *rest)
