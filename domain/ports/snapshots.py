"""Where snapshots are kept: the checkpoints of the fold."""

from typing import Protocol

from msgspec import Struct

from domain.ids import Tenant, ThreadId, Version
from domain.log.hash_chain import Head


class Snapshot(Struct, frozen=True):
    """A thread's folded state after `head`, as JSON on one line, and the fingerprint of the fold that made it."""

    tenant: Tenant
    thread_id: ThreadId
    head: Head
    fingerprint: str
    state: str


class SnapshotStore(Protocol):
    """Checkpoints of the fold. Losing them costs time only."""

    async def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; one of the same thread and version is replaced."""

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        """Return the last snapshot at or before a version (None: of all) that this fold made, or None."""
