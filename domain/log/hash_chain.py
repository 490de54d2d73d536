"""Stored events and their hash chain, which makes tampering evident.

The hash of an event is SHA-256 over the previous event's hash (32 bytes; zeros before the first event), followed by
these fields in UTF-8, joined by single newlines. No field can contain a newline:

    tenant, thread id, version, type, schema version, recorded at, metadata, payload

`recorded at` is written as `2026-11-23T01:02:03.000004Z`; metadata and payload are the stored texts, byte by byte.
`docs/verify.sql` does the same check in PostgreSQL alone.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from msgspec import Struct

from domain.errors import CorruptLog
from domain.ids import Position, Tenant, ThreadId, Version

GENESIS = bytes(32)
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Head(Struct, frozen=True, gc=False):
    """The end of a thread: its last version with its hash and time. An append expects it (optimistic concurrency)."""

    version: Version = Version(0)
    hash: bytes = GENESIS
    at: datetime = BEGINNING


EMPTY_HEAD = Head()
"""The head of a thread that has no events."""


class Draft(Struct, frozen=True, gc=False):
    """An encoded event that has no version yet. `payload` and `metadata` are JSON texts on one line."""

    type: str
    schema: int
    payload: str
    metadata: str


class Record(Struct, frozen=True, gc=False):
    """A stored event. The store assigns `position`; until then it is 0."""

    tenant: Tenant
    thread_id: ThreadId
    version: Version
    type: str
    schema: int
    payload: str
    metadata: str
    recorded_at: datetime
    hash: bytes
    position: Position = Position(0)


def chain_records(
    tenant: Tenant, thread_id: ThreadId, head: Head, drafts: Iterable[Draft], now: datetime
) -> tuple[tuple[Record, ...], Head]:
    """Give drafts their versions, times and hashes after `head`. A thread's times never decrease, even if clocks do."""
    at = max(now, head.at)
    chained = []
    version, last, name = head.version, head.hash, str(thread_id)
    for draft in drafts:
        version = Version(version + 1)
        last = event_hash(last, tenant, name, version, draft.type, draft.schema, at, draft.metadata, draft.payload)
        chained.append(
            Record(tenant, thread_id, version, draft.type, draft.schema, draft.payload, draft.metadata, at, last)
        )
    return tuple(chained), Head(version, last, at) if chained else head


def event_hash(  # the fields of the hash, in their order
    previous: bytes,
    tenant: str,
    thread_id: ThreadId | str,
    version: int,
    kind: str,
    schema: int,
    at: datetime,
    metadata: str,
    payload: str,
) -> bytes:
    """Compute an event's hash from the previous event's."""
    line = f"{tenant}\n{thread_id}\n{version}\n{kind}\n{schema}\n{timestamp(at)}\n{metadata}\n{payload}"
    return hashlib.sha256(previous + line.encode()).digest()


@lru_cache(maxsize=64)  # the events of an append have the same time
def timestamp(at: datetime) -> str:
    """Return an instant as it is written in the text that is hashed or signed."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def check_chain(records: Sequence[Record], after: Head) -> Head:
    """Verify records that follow `after` and return the new head. Raise `CorruptLog`, which names the version."""
    head = after
    for r in records:
        expected = Version(head.version + 1)
        if r.version != expected:
            raise CorruptLog(f"{r.thread_id}: version {expected} is missing, {r.version} came instead")
        place = (r.tenant, r.thread_id, r.version)
        try:
            computed = event_hash(head.hash, *place, r.type, r.schema, r.recorded_at, r.metadata, r.payload)
        except OverflowError:  # the time cannot be written in UTC, which no stored record can have had
            computed = None
        if computed != r.hash:
            raise CorruptLog(f"{r.thread_id}: version {r.version} was changed after it was written")
        head = Head(r.version, r.hash, r.recorded_at)
    return head


def hashes_of(slice_: int, after: int, upto: int, found: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """Return the hashes of (position, hash) pairs after `after` up to `upto`. Raise `CorruptLog` for a missing one."""
    hashes, expected = [], after + 1
    for position, digest in found:
        if position != expected:
            raise CorruptLog(f"Slice {slice_}: position {expected} is missing, {position} came instead")
        hashes.append(digest)
        expected += 1
    if expected <= upto:
        raise CorruptLog(f"Slice {slice_}: positions {expected} to {upto} are missing")
    return hashes
