"""The fold of a batch: what a group's projections make of some events, and which threads they have to park."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.budget.prices import Prices
from domain.errors import CorruptLog, InvalidInput, UnknownThread, Unwritable
from domain.ids import ThreadId, Version
from domain.log.hash_chain import Record
from domain.ports.clock import Clock
from domain.ports.read_models import Batch, GroupId, Instance, InstanceId, Move, Parked
from domain.read_models.tables import Change, Rows
from domain.thread.codec import decode
from projections.engine.projection import EventContext, EventHandler, FoldedThread, Projection
from projections.engine.thread_cache import ThreadCache

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often a handler is tried before its thread is parked."""

UNREADABLE = (
    CorruptLog,
    InvalidInput,
    UnknownThread,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What is raised for an event that cannot be read, or by a fold that does not expect the event."""

MAX_PARALLEL_LOADS = 4
"""Threads that are loaded at the same time."""

RECORDS_PER_YIELD = 100
"""Records after which other tasks of this process get the event loop."""


@dataclass(frozen=True)
class Writer:
    """An instance with the projection that writes it."""

    instance: Instance
    projection: Projection


@dataclass
class EventBatch:
    """Events of one group's batch, folded into rows of each instance. Threads that a projection cannot fold are parked.

    `parked` holds what is parked already, and grows; `parking` holds what this batch adds to it.
    """

    group: GroupId
    writers: Sequence[Writer]
    cache: ThreadCache
    prices: Prices
    clock: Clock
    parked: set[tuple[InstanceId, ThreadId]]
    rows: dict[InstanceId, Rows] = field(default_factory=dict)
    parking: list[Parked] = field(default_factory=list)
    touched: dict[ThreadId, tuple[FoldedThread, Record]] = field(default_factory=dict)
    """The batch's threads, each with its last record."""
    _parked_before: frozenset[tuple[InstanceId, ThreadId]] = field(init=False)
    _handlers: dict[str, list[tuple[Writer, EventHandler, Rows]]] = field(init=False)

    def __post_init__(self) -> None:
        """Look up the handlers of each type of event, and the rows that they write to."""
        self._parked_before = frozenset(self.parked)
        self._handlers = {}
        for writer in self.writers:
            rows = self.rows[writer.instance.id] = Rows(writer.projection.tables)
            for event, handler in writer.projection.events.items():
                self._handlers.setdefault(event.__name__, []).append((writer, handler, rows))

    async def fold(self, records: Sequence[Record], *, unhandled: Version | None = None) -> None:
        """Fold records into rows. The event of version `unhandled` is folded, but shown to no event handler."""
        await self._load_threads(records)
        for number, record in enumerate(records, 1):
            thread_id = record.thread_id
            if self.parked and all((writer.instance.id, thread_id) in self.parked for writer in self.writers):
                continue
            touched = self.touched.get(thread_id)
            folded = touched[0] if touched else self.cache.get(self.group, record)
            try:
                if folded is None or folded.head.version != record.version - 1:
                    folded = await self.cache.load_before(self.group, record)
                context = folded.apply(decode(record), record.hash, self.prices)
            except UNREADABLE as error:
                self._park_everywhere(record, error)
                continue
            self.touched[thread_id] = folded, record
            if record.version != unhandled:
                self._handle_event(record, context)
            if number % RECORDS_PER_YIELD == 0:
                await asyncio.sleep(0)
        for folded, last in self.touched.values():
            self._handle_thread(folded, last)

    def written(self, moves: tuple[Move, ...]) -> Batch:
        """Return what to write once the records are folded, together with the group's new positions."""
        return Batch(self.group, moves, self.rows, self._parked_before, tuple(self.parking))

    def park_unwritable(self, error: Unwritable, record: Record) -> None:
        """Park the thread of a record whose row a table does not take, and drop that projection's rows."""
        (writer,) = [of for of in self.writers if error.table in {table.name for table in of.projection.tables}]
        self._park(writer, record, error)
        self.rows[writer.instance.id] = Rows()

    async def _load_threads(self, records: Sequence[Record]) -> None:
        """Load the threads that are not cached, several at a time: one after the other takes a new process long."""
        first = {record.thread_id: record for record in reversed(records)}
        gate = asyncio.Semaphore(MAX_PARALLEL_LOADS)

        async def load(record: Record) -> None:
            async with gate:
                await self.cache.load_before(self.group, record)

        # A thread that cannot be loaded fails again when its record is folded, and is parked there.
        missing = [record for record in first.values() if not self.cache.get(self.group, record)]
        await asyncio.gather(*map(load, missing), return_exceptions=True)

    def _park_everywhere(self, record: Record, error: Exception) -> None:
        """Park a thread in all instances, after the rows of what was folded before the record."""
        if touched := self.touched.pop(record.thread_id, None):
            self._handle_thread(*touched)
        self.cache.forget(self.group, [record])
        for writer in self.writers:
            self._park(writer, record, error)

    def _handle_event(self, record: Record, context: EventContext[Any]) -> None:
        """Add what the event handlers make of a record. It is hot: the first attempt calls no function of its own."""
        for writer, handler, rows in self._handlers.get(record.type, ()):
            if self.parked and (writer.instance.id, record.thread_id) in self.parked:
                continue
            try:
                changes = tuple(handler(context))
            except Exception:  # noqa: BLE001  (it is tried again, and parked with what it raises then)
                self._handle(writer, record, MAX_ATTEMPTS - 1, handler, context)
            else:
                if changes:
                    rows.add(changes)

    def _handle_thread(self, folded: FoldedThread, last: Record) -> None:
        for writer in self.writers:
            if (handler := writer.projection.thread) and (writer.instance.id, last.thread_id) not in self.parked:
                self._handle(writer, last, MAX_ATTEMPTS, handler, folded, self.prices)

    def _handle(
        self, writer: Writer, record: Record, attempts: int, handler: Callable[..., Iterable[Change]], *given: object
    ) -> None:
        """Add what a handler makes of a record, or park its thread if some attempts fail."""
        for attempt in range(1, attempts + 1):
            try:
                changes = tuple(handler(*given))
            except Exception as error:  # noqa: BLE001  (whatever a handler raises is the reason for parking)
                if attempt == attempts:
                    self._park(writer, record, error)
            else:
                self.rows[writer.instance.id].add(changes)
                return

    def _park(self, writer: Writer, record: Record, error: Exception) -> None:
        instance, thread_id = writer.instance.id, record.thread_id
        if (instance, thread_id) in self.parked:
            return
        why = f"{type(error).__name__}: {error}"
        _log.error("%s parks %s from version %s on: %s", writer.projection.name, thread_id, record.version, why)
        self.parked.add((instance, thread_id))
        position, now = record.position, self.clock.now()
        self.parking.append(Parked(instance, thread_id, record.version, position, record.type, why, MAX_ATTEMPTS, now))
