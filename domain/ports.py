"""What the application needs of the world. Each port has one contract suite in `tests/contracts/`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.chain import Head, Record
from domain.ids import CommandId, Position, Slice, Tenant, ThreadId, Version


class CommandRecord(Struct, frozen=True):
    """A command that was carried out, kept so that repeating it changes nothing."""

    id: CommandId
    request_hash: bytes
    """SHA-256 of what was asked, 32 bytes."""
    result: str
    """What was answered: JSON on one line."""


class Append(Struct, frozen=True):
    """Events for one thread: all of them are stored, or none.

    `records` may be empty where only the command is to be remembered. `in_turn` says whether a turn is running
    after these events, so that it can be found when its process dies.
    """

    tenant: Tenant
    thread_id: ThreadId
    expected: Head
    head: Head
    records: tuple[Record, ...]
    in_turn: bool
    command: CommandRecord | None = None


class ThreadRow(Struct, frozen=True):
    """A thread as the log knows it, without folding anything."""

    tenant: Tenant
    thread_id: ThreadId
    head: Head
    opened_at: datetime
    in_turn: bool


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

        Raises `VersionConflict` if the thread's head is not `append.expected` (in version and hash). This is also
        raised when the command was stored before: see `command`. Nothing is stored then.
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

    async def slice_head(self, slice_: Slice) -> Position:
        """Return the last position that was given out in a slice; 0 if there is none."""

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        """Return the last version that was recorded at or before an instant; 0 if there is none."""

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        """Return a page of the tenant's threads, the last opened first, after the cursor's row."""

    async def stalled(self, before: datetime, limit: int) -> Sequence[ThreadRow]:
        """Return threads with a turn running whose last event is older than `before`, the oldest first."""


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
