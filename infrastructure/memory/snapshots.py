"""Snapshots in memory."""

from collections import defaultdict

from domain.ids import ThreadId, Version
from domain.ports import Snapshot


class MemorySnapshotStore:
    """A `SnapshotStore` that a process keeps for itself."""

    def __init__(self) -> None:
        """Begin with none."""
        self._snapshots: defaultdict[ThreadId, dict[Version, Snapshot]] = defaultdict(dict)

    async def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, in the place of one of the same version."""
        self._snapshots[snapshot.thread_id][snapshot.head.version] = snapshot

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        """Look for the last one that fits."""
        kept = self._snapshots.get(thread_id, {})
        fitting = [v for v, s in kept.items() if s.fingerprint == fingerprint and (upto is None or v <= upto)]
        return kept[max(fitting)] if fitting else None
