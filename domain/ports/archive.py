"""Exporting a whole log from its store, and importing one."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import Position, Slice, Tenant, ThreadId
from domain.log.hash_chain import Record
from domain.ports.log import CommandRecord, EventStore, ThreadRow


class StoredCommand(Struct, frozen=True):
    """A stored command, with its tenant and thread, and when it was carried out."""

    tenant: Tenant
    thread_id: ThreadId
    command: CommandRecord
    at: datetime


class LogView(Protocol):
    """The log at one moment: its last positions, and its commands.

    The records up to `heads` are read from the event store: they do not change.
    """

    heads: Sequence[Position]
    """The last positions of all slices, in the order of the slices."""

    async def commands(self, after: StoredCommand | None, limit: int) -> Sequence[StoredCommand]:
        """Return a page of the commands, ordered by slice and id, after one of them (None: the first page)."""


class LogExport(Protocol):
    """What an export needs in addition to the event store."""

    def view(self) -> AbstractAsyncContextManager[LogView]:
        """View the log as it is now. Later appends are not in the view."""


class ThreadEnds(Struct, frozen=True):
    """A thread's row as far as its first and last record determine it: the rest needs a fold."""

    row: ThreadRow
    """With `in_turn` and `waiting` false."""
    last_type: str
    """The type of the last record."""


class LogWriting(Protocol):
    """A log that is being imported. It is visible to others only after the commit."""

    @property
    def written(self) -> EventStore:
        """The records and threads that were written so far."""

    async def add_events(self, records: Sequence[Record]) -> None:
        """Write records with their positions, hashes and times, in any order.

        Raises:
            CorruptLog: a version of a thread, or a position of a slice, is there twice; a payload or metadata is not
                JSON; or a text or number is not valid in a log.
        """

    async def add_commands(self, commands: Sequence[StoredCommand]) -> None:
        """Write commands. Raises `CorruptLog`: one is there twice, or has an invalid text or result."""

    async def thread_ends(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadEnds]:
        """Return a page of a slice's threads, ordered by id, after one of them (None: the first page)."""

    async def add_threads(self, rows: Sequence[ThreadRow]) -> None:
        """Write the threads' rows."""

    async def stray_command(self) -> StoredCommand | None:
        """Return a command whose thread was not written, or belongs to another tenant; None if there is none."""

    async def set_heads(self, heads: Sequence[Position]) -> None:
        """Set the last positions of all slices."""


class LogImport(Protocol):
    """Imports a whole log into an empty store."""

    def writing(self) -> AbstractAsyncContextManager[LogWriting]:
        """Write a log, in one transaction: if the block fails, or the process dies, nothing is stored.

        Raises:
            LogNotEmpty: the store is not empty; nothing is changed.
        """
