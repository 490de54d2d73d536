"""What taking a whole log out of its store, and putting it into another one, needs."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import Position, Slice, Tenant, ThreadId
from domain.log.hash_chain import Record
from domain.ports.log import CommandRecord, EventStore, ThreadRow


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
            CorruptLog: a version of a thread, or a position of a slice, came before; a payload or metadata is no JSON,
                or a text or a number is none that a log can have.
        """

    async def add_commands(self, commands: Sequence[StoredCommand]) -> None:
        """Write commands. Raises `CorruptLog`: one came before, or has a result that is no JSON, or an unfit text."""

    async def thread_ends(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadEnds]:
        """Return a page of how a slice's threads begin and end, by their ids, after another one (None: the first)."""

    async def add_threads(self, rows: Sequence[ThreadRow]) -> None:
        """Write where threads end."""

    async def stray_command(self) -> StoredCommand | None:
        """Return a command whose thread was not written, or is another tenant's; None if there is none."""

    async def set_heads(self, heads: Sequence[Position]) -> None:
        """Say where all slices end."""


class LogImport(Protocol):
    """Puts a whole log into an empty store."""

    def writing(self) -> AbstractAsyncContextManager[LogWriting]:
        """Write a log. It is stored when the block ends well, all at once; else, or if the process dies, nothing is.

        Raises:
            LogNotEmpty: there is something in the log; nothing is changed.
        """
