"""From events to rows: what a line's projections make of some records, and which threads they cannot go on with."""

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
from domain.ports.read_models import GroupId, Instance, InstanceId, Parked
from domain.read_models.tables import Change, Rows
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
"""What is raised at an event that cannot be read, or by a fold that was not made for what it meets."""

MAX_PARALLEL_LOADS = 4
"""Threads that are looked up at the same time."""

RECORDS_PER_YIELD = 100
"""Records after which others in this process have their turn."""


@dataclass(frozen=True)
class Writer:
    """An instance with the projection that writes it."""

    instance: Instance
    projection: Projection


@dataclass
class EventBatch:
    """What becomes of records: rows by instance, and what is parked from now on."""

    group: GroupId
    writers: Sequence[Writer]
    cache: ThreadCache
    prices: Prices
    clock: Clock
    parked: set[tuple[InstanceId, ThreadId]]
    rows: dict[InstanceId, Rows] = field(default_factory=dict)
    parking: list[Parked] = field(default_factory=list)
    touched: dict[ThreadId, tuple[FoldedThread, Record]] = field(default_factory=dict)
    _handlers: dict[str, list[tuple[Writer, EventHandler, Rows]]] = field(init=False)

    def __post_init__(self) -> None:
        """Find each event's handlers, and where their rows go."""
        self._handlers = {}
        for writer in self.writers:
            rows = self.rows[writer.instance.id] = Rows(writer.projection.tables)
            for event, handler in writer.projection.events.items():
                self._handlers.setdefault(event.__name__, []).append((writer, handler, rows))

    async def fold(self, records: Iterable[Record], *, unhandled: Version | None = None) -> None:
        """Make rows of records. The event of version `unhandled` is folded, and shown to no handler of events."""
        records = list(records)
        await self._load_threads(records)
        for number, record in enumerate(records, 1):
            if self.parked and self._is_out(record.thread_id):
                continue
            try:
                context = self._next(record) or await self._load(record)
            except UNREADABLE as error:
                self._park_everywhere(record, error)
                continue
            if record.version != unhandled:
                self._handle(record, context)
            if number % RECORDS_PER_YIELD == 0:
                await asyncio.sleep(0)
        for folded, last in self.touched.values():
            self._handle_thread(folded, last)

    def park_unwritable(self, error: Unwritable, record: Record) -> None:
        """Leave the rows of a record out that a table does not take, and park its thread there."""
        (writer,) = [of for of in self.writers if error.table in {table.name for table in of.projection.tables}]
        self._park(writer, record, error)
        self.rows[writer.instance.id] = Rows()

    async def _load_threads(self, records: Sequence[Record]) -> None:
        """Look up the threads that nobody knows here, some at a time: one after the other takes a new process long."""
        first = {record.thread_id: record for record in reversed(records)}
        gate = asyncio.Semaphore(MAX_PARALLEL_LOADS)

        async def known(record: Record) -> None:
            async with gate:
                await self.cache.load_before(self.group, record)

        # What cannot be looked up is found again in its turn.
        missing = [record for record in first.values() if not self.cache.get(self.group, record)]
        await asyncio.gather(*map(known, missing), return_exceptions=True)

    def _is_out(self, thread_id: ThreadId) -> bool:
        return all((writer.instance.id, thread_id) in self.parked for writer in self.writers)

    def _next(self, record: Record) -> EventContext[Any] | None:
        """Go on with a thread that is in memory; None if it is to be looked up."""
        touched = self.touched.get(record.thread_id)
        folded = touched[0] if touched else self.cache.get(self.group, record)
        if folded is None or folded.head.version != record.version - 1:
            return None
        context = self.cache.apply(folded, record)
        self.touched[record.thread_id] = folded, record
        return context

    async def _load(self, record: Record) -> EventContext[Any]:
        folded = await self.cache.load_before(self.group, record)
        context = self.cache.apply(folded, record)
        self.touched[record.thread_id] = folded, record
        return context

    def _handle(self, record: Record, context: EventContext[Any]) -> None:
        """Add what the handlers make of an event."""
        for writer, handler, rows in self._handlers.get(record.type, ()):
            if self.parked and (writer.instance.id, record.thread_id) in self.parked:
                continue
            try:
                changes = tuple(handler(context))
            except Exception:  # noqa: BLE001  (whatever a handler raises: it is tried again, and parked with its reason)
                self._add(writer, record, handler, context, attempt=2)
            else:
                if changes:
                    rows.add(changes)

    def _park_everywhere(self, record: Record, error: Exception) -> None:
        """Park a thread everywhere, once what was known of it before that is written."""
        if touched := self.touched.pop(record.thread_id, None):
            self._handle_thread(*touched)
        self.cache.forget(self.group, record.thread_id)
        for writer in self.writers:
            self._park(writer, record, error)

    def _handle_thread(self, folded: FoldedThread, last: Record) -> None:
        for writer in self.writers:
            if writer.projection.thread:
                self._add(writer, last, writer.projection.thread, folded, self.prices)

    def _add(
        self,
        writer: Writer,
        record: Record,
        handler: Callable[..., Iterable[Change]],
        *given: object,
        attempt: int = 1,
    ) -> None:
        """Add what a handler makes of a record, unless its thread is left out; or leave it out from here on."""
        instance = writer.instance.id
        if self.parked and (instance, record.thread_id) in self.parked:
            return
        try:
            changes = list(handler(*given))
        except Exception as error:  # noqa: BLE001  (whatever a handler raises: it is parked with its reason)
            if attempt < MAX_ATTEMPTS:
                self._add(writer, record, handler, *given, attempt=attempt + 1)
            else:
                self._park(writer, record, error)
        else:
            self.rows[instance].add(changes)

    def _park(self, writer: Writer, record: Record, error: BaseException) -> None:
        instance, thread_id = writer.instance.id, record.thread_id
        if (instance, thread_id) in self.parked:
            return
        why = f"{type(error).__name__}: {error}"
        _log.error("%s leaves out %s from version %s on: %s", writer.projection.name, thread_id, record.version, why)
        self.parked.add((instance, thread_id))
        self.parking.append(
            Parked(
                instance,
                thread_id,
                record.version,
                record.position,
                record.type,
                why,
                MAX_ATTEMPTS,
                self.clock.now(),
            )
        )
