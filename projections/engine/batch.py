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
from domain.ports.read_models import Instance, InstanceId, LineId, Parked
from domain.read_models.tables import Change, Rows
from projections.engine.projection import EventContext, EventHandler, FoldedThread, Projection
from projections.engine.thread_cache import ThreadCache

_log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a handler is tried before its thread is parked."""

UNTELLABLE = (
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

AT_ONCE = 4
"""Threads that are looked up at the same time."""

BREATH = 100
"""Records after which others in this process have their turn."""


@dataclass(frozen=True)
class Writing:
    """An instance with the projection that writes it."""

    instance: Instance
    projection: Projection


@dataclass
class EventBatch:
    """What becomes of records: rows by instance, and what is parked from now on."""

    line: LineId
    writing: Sequence[Writing]
    stories: ThreadCache
    prices: Prices
    clock: Clock
    parked: set[tuple[InstanceId, ThreadId]]
    rows: dict[InstanceId, Rows] = field(default_factory=dict)
    parking: list[Parked] = field(default_factory=list)
    touched: dict[ThreadId, tuple[FoldedThread, Record]] = field(default_factory=dict)
    _handlers: dict[str, list[tuple[Writing, EventHandler, Rows]]] = field(init=False)

    def __post_init__(self) -> None:
        """Find each event's handlers, and where their rows go."""
        self._handlers = {}
        for writing in self.writing:
            rows = self.rows[writing.instance.id] = Rows(writing.projection.tables)
            for event, handler in writing.projection.events.items():
                self._handlers.setdefault(event.__name__, []).append((writing, handler, rows))

    async def take(self, records: Iterable[Record], *, unhandled: Version | None = None) -> None:
        """Make rows of records. The event of version `unhandled` is folded, and shown to no handler of events."""
        records = list(records)
        await self._remember(records)
        for number, record in enumerate(records, 1):
            if self.parked and self._is_out(record.thread_id):
                continue
            try:
                seen = self._next(record) or await self._looked_up(record)
            except UNTELLABLE as error:
                self._leave_out(record, error)
                continue
            if record.version != unhandled:
                self._handle(record, seen)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        for story, last in self.touched.values():
            self._settle(story, last)

    def leave_out(self, error: Unwritable, record: Record) -> None:
        """Leave the rows of a record out that a table does not take, and park its thread there."""
        (writing,) = [of for of in self.writing if error.table in {table.name for table in of.projection.tables}]
        self._park(writing, record, error)
        self.rows[writing.instance.id] = Rows()

    async def _remember(self, records: Sequence[Record]) -> None:
        """Look up the threads that nobody knows here, some at a time: one after the other takes a new process long."""
        first = {record.thread_id: record for record in reversed(records)}
        gate = asyncio.Semaphore(AT_ONCE)

        async def known(record: Record) -> None:
            async with gate:
                await self.stories.before(self.line, record)

        # What cannot be looked up is found again in its turn.
        missing = [record for record in first.values() if not self.stories.known(self.line, record)]
        await asyncio.gather(*map(known, missing), return_exceptions=True)

    def _is_out(self, thread_id: ThreadId) -> bool:
        return all((writing.instance.id, thread_id) in self.parked for writing in self.writing)

    def _next(self, record: Record) -> EventContext[Any] | None:
        """Go on with a thread that is in memory; None if it is to be looked up."""
        touched = self.touched.get(record.thread_id)
        story = touched[0] if touched else self.stories.known(self.line, record)
        if story is None or story.head.version != record.version - 1:
            return None
        seen = self.stories.tell(story, record)
        self.touched[record.thread_id] = story, record
        return seen

    async def _looked_up(self, record: Record) -> EventContext[Any]:
        story = await self.stories.before(self.line, record)
        seen = self.stories.tell(story, record)
        self.touched[record.thread_id] = story, record
        return seen

    def _handle(self, record: Record, seen: EventContext[Any]) -> None:
        """Add what the handlers make of an event."""
        for writing, handler, rows in self._handlers.get(record.type, ()):
            if self.parked and (writing.instance.id, record.thread_id) in self.parked:
                continue
            try:
                changes = tuple(handler(seen))
            except Exception:  # noqa: BLE001  (whatever a handler raises: it is tried again, and parked with its reason)
                self._add(writing, record, handler, seen, attempt=2)
            else:
                if changes:
                    rows.add(changes)

    def _leave_out(self, record: Record, error: Exception) -> None:
        """Park a thread everywhere, once what was known of it before that is written."""
        if touched := self.touched.pop(record.thread_id, None):
            self._settle(*touched)
        self.stories.forget(self.line, record.thread_id)
        for writing in self.writing:
            self._park(writing, record, error)

    def _settle(self, story: FoldedThread, last: Record) -> None:
        for writing in self.writing:
            if writing.projection.thread:
                self._add(writing, last, writing.projection.thread, story, self.prices)

    def _add(
        self,
        writing: Writing,
        record: Record,
        handler: Callable[..., Iterable[Change]],
        *given: object,
        attempt: int = 1,
    ) -> None:
        """Add what a handler makes of a record, unless its thread is left out; or leave it out from here on."""
        instance = writing.instance.id
        if self.parked and (instance, record.thread_id) in self.parked:
            return
        try:
            changes = list(handler(*given))
        except Exception as error:  # noqa: BLE001  (whatever a handler raises: it is parked with its reason)
            if attempt < ATTEMPTS:
                self._add(writing, record, handler, *given, attempt=attempt + 1)
            else:
                self._park(writing, record, error)
        else:
            self.rows[instance].add(changes)

    def _park(self, writing: Writing, record: Record, error: BaseException) -> None:
        instance, thread_id = writing.instance.id, record.thread_id
        if (instance, thread_id) in self.parked:
            return
        why = f"{type(error).__name__}: {error}"
        _log.error("%s leaves out %s from version %s on: %s", writing.projection.name, thread_id, record.version, why)
        self.parked.add((instance, thread_id))
        self.parking.append(
            Parked(
                instance,
                thread_id,
                record.version,
                record.position,
                record.type,
                why,
                ATTEMPTS,
                self.clock.now(),
            )
        )
