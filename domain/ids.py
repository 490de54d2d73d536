"""The names of things: threads, versions, slices, positions, commands."""

import zlib
from typing import NewType
from uuid import UUID

ThreadId = NewType("ThreadId", UUID)
"""A stream. One conversation is one thread."""

TurnId = NewType("TurnId", UUID)
"""One user message and everything that the agent did about it."""

CommandId = NewType("CommandId", UUID)
"""Made from an idempotency key and a thread, so that a key belongs to its thread."""

Version = NewType("Version", int)
"""An event's place in its thread, from 1 without gaps. 0 is the empty thread."""

Position = NewType("Position", int)
"""An event's place in its slice, from 1 without gaps, in the order of the commits."""

Slice = NewType("Slice", int)
"""One of `SLICES` groups of threads: the unit of ordering, of work and of distribution."""

Shard = NewType("Shard", int)
"""One of `SHARDS` runs of neighbouring slices: what a worker leases."""

WorkerId = NewType("WorkerId", UUID)
"""A process that runs turns. Made anew at each start."""

Tenant = NewType("Tenant", str)

START = Version(0)
"""The version before a thread's first event."""

MAX_VERSION = Version(2**31 - 1)
"""The last version that a thread can have: versions are stored in four bytes."""

SLICES = 1024
SHARDS = 64
DEFAULT_TENANT = Tenant("default")


def slice_of(thread_id: ThreadId) -> Slice:
    """Place a thread: CRC-32 of its 16 bytes, modulo 1,024. Part of the storage format."""
    return Slice(zlib.crc32(thread_id.bytes) % SLICES)


def shard_of(slice_: Slice) -> Shard:
    """Name the shard that a slice belongs to."""
    return Shard(slice_ * SHARDS // SLICES)


def slices_of(shard: Shard) -> range:
    """List a shard's slices."""
    size = SLICES // SHARDS
    return range(shard * size, (shard + 1) * size)
