"""What the application needs of the world. Each port has one contract suite in `tests/contracts/`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.chain import Head, Record
from domain.ids import CommandId, Position, Shard, Slice, Tenant, ThreadId, Version, WorkerId
from domain.seals import Seal

NOWHERE = Position(0)
"""The position before a slice's first event."""


class CommandRecord(Struct, frozen=True):
    """A command that was carried out, kept so that repeating it changes nothing."""

    id: CommandId
    request_hash: bytes
    """SHA-256 of what was asked, 32 bytes."""
    result: str
    """What was answered: JSON on one line."""


class Fence(Struct, frozen=True):
    """The lease under which a worker appends. Once its shard has a newer epoch, the append is refused."""

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


class EventStore(Protocol):
    """The log: append-only streams of records, ordered within their slice."""

    async def append(self, append: Append) -> Position:
        """Store everything durably and return the position of the first record (0 if there is none).

        Inside a slice, positions are gapless and become visible in their order: a reader that has seen position
        p has missed nothing before p.

        Raises, with nothing stored:
            VersionConflict: the thread's head is not `append.expected` (in version and hash), a fork's id is taken,
                or the command was stored before: see `command`.
            LeaseLost: `append.fence` is of an older epoch than its shard's lease.
            Overloaded: too many appends wait already.
        """

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        """Return the command as it was stored, or None."""

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        """Return where the thread ends, or None if there is none."""

    async def read(
        self, thread_id: ThreadId, after: Version, upto: Version | None = None, limit: int | None = None
    ) -> Sequence[Record]:
        """Return the records with `after < version <= upto` in their order, at most `limit`."""

    async def read_slice(self, slice_: Slice, after: Position, limit: int) -> Sequence[Record]:
        """Return the records of a slice after a position, in their order, at most `limit`."""

    async def read_after(self, after: Mapping[Slice, Position], limit: int) -> Sequence[Record]:
        """Return records of several slices, each after a position of its own and at most `limit` of each.

        They come in the order of slice and position.
        """

    async def read_slices(
        self,
        after: Mapping[Slice, Position],
        tenant: Tenant,
        types: Collection[str] | None = None,
        *,
        limit: int,
        look: int,
    ) -> Stretch:
        """Look through some slices after a position in each, for a tenant's records of some types (None: all).

        At most `look` records are looked at and `limit` found, slice by slice in the order of `after`, in each in the
        order of positions. So whoever goes on after `seen` misses nothing, and meets nothing twice.
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

    async def runnable(self, shards: Collection[Shard], limit: int) -> Sequence[ThreadRow]:
        """Return threads of some shards that have something to run (`in_turn`), the longest silent first."""

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        """Return where threads end: a cheap look whether somebody else has written to them."""


class SealStore(Protocol):
    """The seals of the log, numbered from 1 without gaps. None is ever changed."""

    async def append(self, seal: Seal) -> bool:
        """Store the seal that follows on the last one; return False, with nothing stored, if its number does not."""

    async def last(self) -> Seal | None:
        """Return the seal with the highest number, or None if there is none."""

    async def get(self, number: int) -> Seal | None:
        """Return the seal with this number, or None."""

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        """Return at most `limit` seals with a higher number than `after`, in their order."""


class Verifier(Protocol):
    """Checks signatures."""

    def verify(self, public_key: bytes, signature: bytes, text: bytes) -> bool:
        """Say whether the holder of a key has signed a text. False, too, for what is no key or signature at all."""


class Signer(Protocol):
    """Holds a key and signs with it."""

    @property
    def public_key(self) -> bytes:
        """Return the key's public part."""

    @property
    def key_id(self) -> str:
        """Name the key: see `domain.seals.key_id_of`."""

    def sign(self, text: bytes) -> bytes:
        """Sign a text."""


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


class Clock(Protocol):
    """The time now."""

    def now(self) -> datetime:
        """Return an aware datetime in UTC."""


class TokenCounter(Protocol):
    """Counts the tokens that a model will see."""

    def count(self, text: str) -> int:
        """Return the number of tokens in a text."""


class Lease(Struct, frozen=True):
    """A worker's right to run a shard's turns. Each change of owner raises the epoch."""

    shard: Shard
    epoch: int
    since: datetime
    """When the owner took it, on the store's clock."""


class WorkerRow(Struct, frozen=True):
    """A worker that is there. Instants are on the store's clock."""

    id: WorkerId
    name: str
    """Where it runs: `host:pid`."""
    started_at: datetime
    seen_at: datetime
    standby: bool
    """It takes shards only while there is no worker that is not on standby."""
    shards: tuple[Shard, ...]


class Standing(Struct, frozen=True):
    """What a worker has, and how many workers there are to share with.

    `workers` counts those that are alive and not on standby, with the asker if it is one of them.
    """

    leases: tuple[Lease, ...]
    workers: int


class LeaseStore(Protocol):
    """Who may run which shard's turns. Time is the store's own, so that no two clocks need to agree."""

    async def renew(self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False) -> Standing:
        """Say that a worker is there, and keep its leases, for `ttl` seconds from now.

        A lease that ran out but that nobody else has taken is kept, too.
        """

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Take up to `limit` shards that have no owner, or one whose lease ran out; each gets a new epoch."""

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Give shards back; those that are not the worker's any more are left alone."""

    async def leave(self, worker: WorkerId) -> None:
        """Give everything back: the worker ends."""

    async def workers(self) -> Sequence[WorkerRow]:
        """Return the workers that are alive, the oldest first, with their shards in order."""


class TurnReady(Struct, frozen=True, tag="ready"):
    """A thread has something to run: a turn began, or a person decided something about it."""

    thread_id: ThreadId
    tenant: Tenant


class Moved(Struct, frozen=True, tag="moved"):
    """A thread has new events, up to a version."""

    thread_id: ThreadId
    version: Version


class Spoken(Struct, frozen=True, tag="spoken"):
    """A piece of an answer that a model is writing, after a version of its thread. `offset` counts characters."""

    thread_id: ThreadId
    version: Version
    offset: int
    text: str


class Retracted(Struct, frozen=True, tag="retracted"):
    """What was spoken after a version came to nothing: the attempt failed."""

    thread_id: ThreadId
    version: Version


class Watched(Struct, frozen=True, tag="watched"):
    """Somebody in this process wants to hear what is spoken in a thread."""

    thread_id: ThreadId


class SharesChanged(Struct, frozen=True, tag="shares"):
    """A worker came, or gave shards back: who has room may claim them."""


Wakeup: TypeAlias = SharesChanged | TurnReady | Moved | Spoken | Retracted | Watched


class Wakeups(Protocol):
    """Words between processes, after the commit. They may be lost or come late: that costs latency, no more."""

    def send(self, wakeup: Wakeup) -> None:
        """Tell the other processes soon, together with what else there is to tell. Never waits, never fails."""

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        """Hear what other processes send, from now on. Call what is returned to stop."""

    async def close(self) -> None:
        """Send what is left, if that is possible, and let go."""


class HotStore(Protocol):
    """Holds what was answered and is not stored yet, outside of the process that answered.

    At most one append for each thread. It may lose everything: then an answer is lost that the log does not have.
    """

    async def put(self, append: Append) -> None:
        """Hold an append. Raises `StoreUnavailable`: then nothing may be answered before it is stored."""

    async def get(self, thread_id: ThreadId) -> Append | None:
        """Return what is held of a thread, or None. Raises `StoreUnavailable`."""

    async def drop(self, thread_id: ThreadId) -> None:
        """Let go of what is stored by now. Never fails."""


class StoredCommand(Struct, frozen=True):
    """A command as the log keeps it: whose it was, and when it was carried out."""

    tenant: Tenant
    thread_id: ThreadId
    command: CommandRecord
    at: datetime


class LogView(Protocol):
    """Where the log ended at one moment, and the commands that it knew then.

    The records up to `heads` are in the event store: they do not change.
    """

    heads: Sequence[Position]
    """The last positions of all slices, in the order of the slices."""

    async def commands(self, after: StoredCommand | None, limit: int) -> Sequence[StoredCommand]:
        """Return a page of the commands, by slice and id, after another one (None: the first)."""


class LogExport(Protocol):
    """What takes a log out of its store needs, beside the event store."""

    def view(self) -> AbstractAsyncContextManager[LogView]:
        """Look at the log as it is now; what is appended from now on is not in the view."""


class ThreadEnds(Struct, frozen=True):
    """How a thread's records begin and end: everything of its row but what only a fold can tell."""

    row: ThreadRow
    """With `in_turn` and `waiting` false."""
    last_type: str
    """The type of the last record."""


class LogWriting(Protocol):
    """A log that is being put in. Nobody else sees any of it before the end."""

    @property
    def written(self) -> EventStore:
        """The records and threads that were written so far, to read."""

    async def add_events(self, records: Sequence[Record]) -> None:
        """Write records with the positions, hashes and times that they have, in any order.

        Raises:
            CorruptLog: a version of a thread, or a position of a slice, came before.
        """

    async def add_commands(self, commands: Sequence[StoredCommand]) -> None:
        """Write commands. Raises `CorruptLog`: one came before."""

    async def thread_ends(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadEnds]:
        """Return a page of how a slice's threads begin and end, by their ids, after another one (None: the first)."""

    async def add_threads(self, rows: Sequence[ThreadRow]) -> None:
        """Write where threads end."""

    async def set_heads(self, heads: Sequence[Position]) -> None:
        """Say where all slices end."""


class LogImport(Protocol):
    """Puts a whole log into an empty store."""

    def writing(self) -> AbstractAsyncContextManager[LogWriting]:
        """Write a log. It is stored when the block ends well, all at once; else, or if the process dies, nothing is.

        Raises:
            LogNotEmpty: there is something in the log; nothing is changed.
        """
