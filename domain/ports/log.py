"""The log: streams of events, one for each thread."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import CommandId, Position, Shard, Slice, Tenant, ThreadId, Version
from domain.log.hash_chain import Head, Record

NOWHERE = Position(0)
"""The position before a slice's first event."""

PAGE_BYTES = 4_000_000
"""Bytes of payloads after which a page of records ends, however many records were asked for."""

FEW = 4
"""Records that may be asked for without regard to their size: a store need not weigh so few."""


class CommandRecord(Struct, frozen=True):
    """A command that was carried out, kept so that repeating it changes nothing."""

    id: CommandId
    request_hash: bytes
    """SHA-256 of what was asked, 32 bytes."""
    result: str
    """What was answered: JSON on one line."""


class Fence(Struct, frozen=True):
    """The lease under which a worker appends. Once its shard has a newer epoch, the append is refused.

    Where it waits for its thread meanwhile, it is refused once the new owner has written to the thread or fenced it.
    """

    shard: Shard
    epoch: int


class Append(Struct, frozen=True):
    """Events for one thread: all of them are stored, or none.

    `records` may be empty where only the command is to be remembered. `in_turn` says whether there is something to
    run after these events, so that a worker finds it; `waiting` that a turn cannot go on before a person decides.
    `forked`: the thread is new, and begins after `expected`, which is where it leaves another one.
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
    """A thread as the log knows it, without folding anything.

    `base` is the version that a fork begins after: events up to it are another thread's. 0 for all others.
    """

    tenant: Tenant
    thread_id: ThreadId
    head: Head
    opened_at: datetime
    in_turn: bool
    waiting: bool = False
    base: Version = Version(0)


class Stretch(Struct, frozen=True):
    """What was found in some slices, and how far each of them was looked through: the position of the last record.

    Slices in which nothing was looked at are not in `seen`.
    """

    records: Sequence[Record]
    seen: Mapping[Slice, Position]


class ThreadCursor(Struct, frozen=True):
    """The last row of a page of threads."""

    opened_at: datetime
    thread_id: ThreadId


def may_have_more(sizes: Sequence[int], limit: int | None, room: int = PAGE_BYTES) -> bool:
    """Say whether records may follow on a page whose payloads have so many characters.

    They may if it has `limit` records, or may have been cut at `room` bytes: a character takes four of them at most.
    """
    return (limit is not None and len(sizes) >= limit) or 4 * sum(sizes) >= room


class EventStore(Protocol):
    """The log: append-only streams of records, ordered within their slice.

    Every read is bounded in bytes: it ends with the record with which the payloads take `room` bytes, and so has at
    least one record if there is one. A page that is shorter than `limit` need not be the last one: ask
    `may_have_more`, or read on until a page is empty.
    """

    async def append(self, append: Append) -> Position:
        """Store everything durably and return the position of the first record (0 if there is none).

        Inside a slice, positions are gapless and become visible in their order: a reader that has seen position
        p has missed nothing before p.

        Raises, with nothing stored:
            VersionConflict: the thread's head is not `append.expected` (in version and hash), a fork's id is taken,
                or the command was stored before: see `command`.
            LeaseLost: `append.fence` is of an older epoch than its shard's lease, or than the thread has seen.
            StoreUnavailable: the store can store nothing now; after a lost connection, it may have done so.
            Overloaded: too many appends wait already.
        """

    async def check_writable(self) -> None:
        """Write something that no reader sees, as durably as an append. Raises `StoreUnavailable`, which says why."""

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Refuse appends to threads under older epochs than these from now on. Return the threads that are fenced.

        What such a thread's log shows after this is all that a former owner of its shard has stored, and will ever
        have. Left out are threads with an append under way, and those that a newer epoch than this has written to: ask
        again later, if the shard is still yours.
        """

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        """Return the command as it was stored, or None."""

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        """Return where the thread ends, or None if there is none."""

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = PAGE_BYTES,
    ) -> Sequence[Record]:
        """Return the records with `after < version <= upto` in their order, at most `limit`, in at most `room` bytes.

        A store need not weigh a page of up to `FEW` records.
        """

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        """Return the thread's own records of some versions, in their order; those that it has."""

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Return the records of a slice after a position, in their order, at most `limit`, in at most `room` bytes."""

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Return records of several slices, each after a position of its own and at most `limit` of each.

        They come slice by slice in the order of `after`, in each in the order of positions, and take at most `room`
        bytes together: slices that come late may have none on this page.
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
    ) -> Stretch:
        """Look through some slices after a position in each, for a tenant's records of some types (None: all).

        At most `look` records are looked at and `limit` found, of `room` bytes together, slice by slice in the order
        of `after`, in each in the order of positions. So a reader that goes on after `seen` misses nothing, and meets
        nothing twice.
        """

    async def slice_head(self, slice_: Slice) -> Position:
        """Return the last position that was given out in a slice; 0 if there is none."""

    async def slice_heads(self) -> Sequence[Position]:
        """Return the last position of every slice, in the slices' order, all of one moment."""

    async def hashes(self, slice_: Slice, upto: Position, after: Position = NOWHERE) -> Sequence[bytes]:
        """Return the stored hashes of a slice's events with `after < position <= upto`, in their order.

        Raises `CorruptLog` if there is not exactly one event at each of these positions.
        """

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        """Return a page of a slice's threads, of every tenant, in the order of their ids, after one of them."""

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        """Return the thread's last own version that was recorded at or before an instant; 0 if there is none."""

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        """Return a page of the tenant's threads, the last opened first, after the cursor's row."""

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        """Return a page of the threads of some shards that have something to run (`in_turn`).

        They come in the order of their slices and ids, after a thread if one is given.
        """

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        """Return where threads end: a cheap look whether somebody else has written to them."""
