"""Snapshots in memory."""

from bisect import bisect_right, insort
from collections import defaultdict

from domain.ids import ThreadId, Version
from domain.ports.snapshots import Snapshot


class MemorySnapshotStore:
    """A `SnapshotStore` that ends with its process."""

    def __init__(self) -> None:
        self._snapshots: defaultdict[ThreadId, dict[Version, Snapshot]] = defaultdict(dict)
        self._versions: defaultdict[ThreadId, list[Version]] = defaultdict(list)

    async def save(self, snapshot: Snapshot) -> None:
        kept, version = self._snapshots[snapshot.thread_id], snapshot.head.version
        if version not in kept:
            insort(self._versions[snapshot.thread_id], version)
        kept[version] = snapshot

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        kept, versions = self._snapshots.get(thread_id, {}), self._versions.get(thread_id, [])
        last = len(versions) if upto is None else bisect_right(versions, upto)
        fitting = (kept[version] for version in reversed(versions[:last]))
        return next((snapshot for snapshot in fitting if snapshot.fingerprint == fingerprint), None)
