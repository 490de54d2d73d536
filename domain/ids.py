"""Identifiers of threads, turns, commands, versions, positions, slices and shards."""

import zlib
from typing import NewType
from uuid import UUID

ThreadId = NewType("ThreadId", UUID)
"""An event stream. One conversation is one thread."""

TurnId = NewType("TurnId", UUID)
"""One user message and everything that the agent did in response."""

CommandId = NewType("CommandId", UUID)
"""Derived from an idempotency key and a thread: the same key in another thread is another command."""

Version = NewType("Version", int)
"""An event's number in its thread, from 1 without gaps. 0 is the empty thread."""

Position = NewType("Position", int)
"""An event's number in its slice, from 1 without gaps, in commit order."""

Slice = NewType("Slice", int)
"""One of `SLICES` groups of threads: the unit of ordering and of distribution."""

Shard = NewType("Shard", int)
"""One of `SHARDS` ranges of neighbouring slices: the unit that a worker leases."""

WorkerId = NewType("WorkerId", UUID)
"""A process that runs turns. Each start gets a new id."""

Tenant = NewType("Tenant", str)

START = Version(0)
"""The version of a thread before its first event."""

MAX_VERSION = Version(2**31 - 1)
"""The highest version of a thread: versions are stored in four bytes."""

SLICES = 1024
SHARDS = 64
DEFAULT_TENANT = Tenant("default")


def slice_of(thread_id: ThreadId) -> Slice:
    """Return a thread's slice: CRC-32 of its 16 bytes, modulo 1,024. This is part of the storage format."""
    return Slice(zlib.crc32(thread_id.bytes) % SLICES)


def shard_of(slice_: Slice) -> Shard:
    """Return the shard of a slice."""
    return Shard(slice_ * SHARDS // SLICES)


def slices_of(shard: Shard) -> range:
    """Return the slices of a shard."""
    size = SLICES // SHARDS
    return range(shard * size, (shard + 1) * size)
