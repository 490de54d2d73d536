"""Snapshots in memory."""

from collections import defaultdict

from domain.ids import ThreadId, Version
from domain.ports.snapshots import Snapshot


class MemorySnapshotStore:
    """A `SnapshotStore` that ends with its process."""

    def __init__(self) -> None:
        self._snapshots: defaultdict[ThreadId, dict[Version, Snapshot]] = defaultdict(dict)

    async def save(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.thread_id][snapshot.head.version] = snapshot

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        kept = self._snapshots.get(thread_id, {})
        earlier = (kept[version] for version in sorted(kept, reverse=True) if upto is None or version <= upto)
        return next((snapshot for snapshot in earlier if snapshot.fingerprint == fingerprint), None)
