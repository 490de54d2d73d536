"""Snapshots of folded threads."""

from typing import Protocol

from msgspec import Struct

from domain.ids import Tenant, ThreadId, Version
from domain.log.hash_chain import Head


class Snapshot(Struct, frozen=True):
    """A thread's folded state after `head`, as JSON on one line, and the fingerprint of the fold."""

    tenant: Tenant
    thread_id: ThreadId
    head: Head
    fingerprint: str
    state: str


class SnapshotStore(Protocol):
    """Stores snapshots. If they are lost, loads only take longer."""

    async def save(self, snapshot: Snapshot) -> None:
        """Store a snapshot. Replaces one of the same thread and version."""

    async def nearest(self, thread_id: ThreadId, upto: Version | None, fingerprint: str) -> Snapshot | None:
        """Return the last snapshot of this fold at or before a version (None: the last of all), or None."""
