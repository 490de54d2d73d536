"""From events to rows: what a line's projections make of some records, and which threads they cannot go on with."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from domain.chain import Record
from domain.errors import CorruptLog, InvalidInput, UnknownThread, Unwritable
from domain.ids import ThreadId, Version
from domain.ports.clock import Clock
from domain.prices import Prices
from domain.read_models import Instance, InstanceId, LineId, Parked
from domain.tables import Change, Rows
from projections.projection import EventHandler, Projection, Story
from projections.stories import Stories

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
class Digest:
    """What becomes of records: rows by instance, and what is parked from now on."""

    line: LineId
    writing: Sequence[Writing]
    stories: Stories
    prices: Prices
    clock: Clock
    parked: set[tuple[InstanceId, ThreadId]]
    rows: dict[InstanceId, Rows] = field(default_factory=dict)
    parking: list[Parked] = field(default_factory=list)
    touched: dict[ThreadId, tuple[Story, Record]] = field(default_factory=dict)
    _handlers: dict[str, list[tuple[Writing, EventHandler]]] = field(init=False)

    def __post_init__(self) -> None:
        """Find each event's handlers."""
        self._handlers = {}
        for writing in self.writing:
            self.rows[writing.instance.id] = Rows(writing.projection.tables)
            for event, handler in writing.projection.events.items():
                self._handlers.setdefault(event.__name__, []).append((writing, handler))

    async def take(self, records: Iterable[Record], *, unhandled: Version | None = None) -> None:
        """Make rows of records. The event of version `unhandled` is folded, and shown to no handler of events."""
        records = list(records)
        await self._remember(records)
        for number, record in enumerate(records, 1):
            await self._take(record, handled=record.version != unhandled)
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
        await asyncio.gather(*map(known, first.values()), return_exceptions=True)

    async def _take(self, record: Record, *, handled: bool) -> None:
        thread_id = record.thread_id
        if self.parked and all((writing.instance.id, thread_id) in self.parked for writing in self.writing):
            return
        try:
            story, last = self.touched.get(thread_id, (None, record))
            if story is None or last.version != record.version - 1:
                story = await self.stories.before(self.line, record)
            seen = self.stories.tell(story, record)
        except UNTELLABLE as error:
            self._leave_out(record, error)
            return
        self.touched[thread_id] = story, record
        for writing, handler in self._handlers.get(record.type, ()) if handled else ():
            self._add(writing, record, handler, seen)

    def _leave_out(self, record: Record, error: Exception) -> None:
        """Park a thread everywhere, once what was known of it before that is written."""
        if touched := self.touched.pop(record.thread_id, None):
            self._settle(*touched)
        self.stories.forget(self.line, record.thread_id)
        for writing in self.writing:
            self._park(writing, record, error)

    def _settle(self, story: Story, last: Record) -> None:
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
