"""Exporting a whole log from memory, and importing one."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import msgspec

from domain.errors import CorruptLog, InvalidInput, LogNotEmpty
from domain.ids import CommandId, Position, Slice, ThreadId, Version, slice_of
from domain.json import check_text
from domain.log.hash_chain import Head, Record
from domain.ports.archive import LogView, LogWriting, StoredCommand, ThreadEnds
from domain.ports.log import ThreadRow
from infrastructure.memory.event_store import MemoryEventStore


class MemoryArchive:
    """A `LogExport` and a `LogImport` of a store in memory."""

    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    @asynccontextmanager
    async def view(self) -> AsyncIterator[LogView]:
        yield _View(await self._store.slice_heads(), self._store.commands())

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LogWriting]:
        """Fill another store; at the end its content replaces the store's."""
        if not self._store.empty():
            raise LogNotEmpty
        writing = _Writing()
        yield writing
        if not self._store.empty():
            raise LogNotEmpty
        self._store.become(writing.written)


class _View:
    def __init__(self, heads: Sequence[Position], commands: Sequence[StoredCommand]) -> None:
        self.heads = heads
        self._commands = sorted(commands, key=_place)

    async def commands(self, after: StoredCommand | None, limit: int) -> Sequence[StoredCommand]:
        following = [stored for stored in self._commands if after is None or _place(stored) > _place(after)]
        return following[:limit]


class _Writing:
    def __init__(self) -> None:
        self.written = MemoryEventStore()
        self._records: defaultdict[ThreadId, dict[Version, Record]] = defaultdict(dict)
        self._places: set[tuple[Slice, Position]] = set()

    async def add_events(self, records: Sequence[Record]) -> None:
        for record in records:
            _check(record)
            place = slice_of(record.thread_id), record.position
            if record.version in self._records[record.thread_id] or place in self._places:
                raise CorruptLog(f"{record.thread_id}: version {record.version}, or its position, comes twice")
            self._places.add(place)
            self._records[record.thread_id][record.version] = record
        self.written.put(records)

    async def add_commands(self, commands: Sequence[StoredCommand]) -> None:
        for stored in commands:
            if not _is_storable([stored.tenant], [stored.command.result]):
                raise CorruptLog(f"The command {stored.command.id} cannot be stored")
            if await self.written.command(stored.thread_id, stored.command.id):
                raise CorruptLog(f"The command {stored.command.id} comes twice")
            self.written.remember(stored)

    async def thread_ends(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadEnds]:
        threads = sorted(id_ for id_ in self._records if slice_of(id_) == slice_ and (after is None or id_ > after))
        return [_ends(self._records[thread_id]) for thread_id in threads[:limit]]

    async def add_threads(self, rows: Sequence[ThreadRow]) -> None:
        self.written.put_threads(rows)

    async def stray_command(self) -> StoredCommand | None:
        for stored in self.written.commands():
            row = await self.written.thread(stored.thread_id)
            if row is None or row.tenant != stored.tenant:
                return stored
        return None

    async def set_heads(self, heads: Sequence[Position]) -> None:
        """Check that the slices end there: a store in memory counts its records."""
        if list(heads) != list(await self.written.slice_heads()):
            raise CorruptLog("The slices do not end where their records do")


def _check(record: Record) -> None:
    """Raise `CorruptLog` for what PostgreSQL would refuse."""
    numbers = ((record.version, 32), (record.schema, 16), (record.position, 64))
    fit = all(-(2 ** (bits - 1)) <= number < 2 ** (bits - 1) for number, bits in numbers)
    if not (fit and _is_storable([record.tenant, record.type], [record.payload, record.metadata])):
        raise CorruptLog(f"{record.thread_id}: version {record.version} cannot be stored")


def _is_storable(texts: Iterable[str], documents: Iterable[str]) -> bool:
    """Return whether PostgreSQL takes texts, and others as JSON."""
    try:
        for text in texts:
            check_text(text, "")
        for document in documents:
            msgspec.json.decode(document)
    except (InvalidInput, msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return False
    return True


def _ends(records: dict[Version, Record]) -> ThreadEnds:
    first, last = records[min(records)], records[max(records)]
    head = Head(last.version, last.hash, last.recorded_at)
    base = Version(first.version - 1)
    row = ThreadRow(first.tenant, first.thread_id, head, first.recorded_at, in_turn=False, base=base)
    return ThreadEnds(row, last.type)


def _place(stored: StoredCommand) -> tuple[Slice, CommandId]:
    return slice_of(stored.thread_id), stored.command.id
