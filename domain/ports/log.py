"""The log: one append-only stream of events for each thread."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import CommandId, Position, Shard, Slice, Tenant, ThreadId, Version
from domain.log.hash_chain import Head, Record

BEFORE_FIRST = Position(0)
"""The position before a slice's first event."""

PAGE_BYTES = 4_000_000
"""Bytes of payloads after which a page of records ends, whatever its limit."""

MAX_UNWEIGHED_RECORDS = 4
"""Records that a store may read without regard to their size."""


class CommandRecord(Struct, frozen=True):
    """A command that was carried out, stored so that its repetition changes nothing."""

    id: CommandId
    request_hash: bytes
    """SHA-256 of the request, 32 bytes."""
    result: str
    """The result: JSON on one line."""


class Fence(Struct, frozen=True):
    """The fencing token of the lease under which a worker appends. It is refused once its shard has a newer epoch.

    An append that already waits for its thread's row is refused once the new owner has written to the thread or fenced
    it.
    """

    shard: Shard
    epoch: int


class Append(Struct, frozen=True):
    """Events for one thread: all of them are stored, or none.

    `expected` is the thread's head before the append (optimistic concurrency), `head` the one after it. `records` may
    be empty if only the command is to be stored. `in_turn` says whether the thread has something to run after these
    events, so that a worker finds it; `waiting`, that its turn waits for a person. `forked`: the thread is new, and
    begins after `expected`, which is its parent's head.
    """

    tenant: Tenant
    thread_id: ThreadId
    expected: Head
    head: Head
    records: tuple[Record, ...]
    in_turn: bool
    command: CommandRecord | None = None
    waiting: bool = False
    forked: bool = False
    fence: Fence | None = None


class ThreadRow(Struct, frozen=True):
    """What the log knows of a thread without folding it.

    `base` is the version that a fork begins after: events up to it are its parent's. 0 for all other threads.
    """

    tenant: Tenant
    thread_id: ThreadId
    head: Head
    opened_at: datetime
    in_turn: bool
    waiting: bool = False
    base: Version = Version(0)


class ScannedRecords(Struct, frozen=True):
    """Records found in some slices, and how far each slice was scanned: the position of the last record.

    `seen` has no slices in which nothing was scanned.
    """

    records: Sequence[Record]
    seen: Mapping[Slice, Position]


class ThreadCursor(Struct, frozen=True):
    """The last row of a page of threads."""

    opened_at: datetime
    thread_id: ThreadId


def may_have_more(sizes: Sequence[int], limit: int | None, room: int = PAGE_BYTES) -> bool:
    """Say whether records may follow a page, by the characters of its payloads.

    They may if it has `limit` records, or may have been cut at `room` bytes: a character takes up to four bytes.
    """
    return (limit is not None and len(sizes) >= limit) or 4 * sum(sizes) >= room


class EventStore(Protocol):
    """The log: append-only streams of records, ordered within their slice.

    Every read is bounded in bytes: it ends with the record with which the payloads reach `room` bytes. So it has at
    least one record if there is one. A page that is shorter than `limit` need not be the last one: use
    `may_have_more`, or read until a page is empty.
    """

    async def append(self, append: Append) -> Position:
        """Store everything durably. Returns the position of the first record (0 if there is none).

        Within a slice, positions have no gaps and become visible in order: a reader that has read position p has
        missed nothing before p.

        Raises, with nothing stored:
            VersionConflict: the thread's head is not `append.expected` (version and hash), a fork's id is in use, or
                the command was stored before: see `command`.
            LeaseLost: the epoch of `append.fence` is older than that of its shard's lease, or of the thread.
            StoreUnavailable: the store does not take the append; after a lost connection, it may have stored it.
            Overloaded: too many appends wait.
        """

    async def check_writable(self) -> None:
        """Write a row that no reader sees, as durably as an append. Raises `StoreUnavailable` with the reason."""

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Refuse appends to threads with older epochs than these from now on. Returns the threads that are fenced.

        After this, a former owner of the shard stores nothing more in these threads: the log has all that it ever
        stored. Threads with an append under way, or with a newer epoch, are not fenced: the caller tries again later,
        if it still has the shard.
        """

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        """Return the stored command, or None."""

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        """Return the thread's row, or None if it does not exist."""

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = PAGE_BYTES,
    ) -> Sequence[Record]:
        """Return the records with `after < version <= upto` in order, at most `limit` of them, in about `room` bytes.

        A store need not weigh a page of up to `MAX_UNWEIGHED_RECORDS` records.
        """

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        """Return the thread's own records of some versions, in order. A fork's parent is not read."""

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Return records of a slice after a position, in order, at most `limit` of them, in about `room` bytes."""

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Return records of several slices: of each, those after its position, at most `limit`.

        They are ordered by slice, in the order of `after`, then by position. Together they take about `room` bytes, so
        the last slices may have none on this page.
        """

    async def read_slices(
        self,
        after: Mapping[Slice, Position],
        tenant: Tenant,
        types: Collection[str] | None = None,
        *,
        limit: int,
        look: int,
        room: int = PAGE_BYTES,
    ) -> ScannedRecords:
        """Scan some slices, each after a position, for a tenant's records of some types (None: all).

        Scans at most `look` records, and returns at most `limit`, of about `room` bytes together. They are ordered by
        slice, in the order of `after`, then by position. A reader that continues after `seen` gets every record
        exactly once.
        """

    async def slice_head(self, slice_: Slice) -> Position:
        """Return the last position of a slice; 0 if it is empty."""

    async def slice_heads(self) -> Sequence[Position]:
        """Return the last position of every slice, in the slices' order, all as of one moment."""

    async def hashes(self, slice_: Slice, upto: Position, after: Position = BEFORE_FIRST) -> Sequence[bytes]:
        """Return the stored hashes of a slice's events with `after < position <= upto`, in order.

        Raises `CorruptLog` unless there is exactly one event at each of these positions.
        """

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        """Return a page of a slice's threads, of every tenant, ordered by id, after one of them."""

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        """Return the thread's last own version that was recorded at or before an instant; 0 if there is none."""

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        """Return a page of the tenant's threads, newest first, after the cursor's row."""

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        """Return a page of the threads of some shards that have something to run (`in_turn`).

        They are ordered by slice and id. The page begins after a thread, if one is given.
        """

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        """Return the threads' last versions: a cheap check whether other processes have written to them."""
