"""A projection: a value with the tables of a read model and the handlers that turn events into rows.

Handlers are pure. They get an event with the thread's folded state before and after it, and return rows. The table's
rules merge them with the rows that exist. So a projection has no state of its own to lose.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct

from domain.application.thread_repository import LoadedThread
from domain.budget.prices import Prices
from domain.ids import START, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head
from domain.ports.read_models import Shape
from domain.read_models.tables import Change, Table
from domain.thread.codec import Recorded
from domain.thread.events import Event, ThreadForked, ThreadOpened, TurnStarted
from domain.thread.evolve import evolve
from domain.thread.memory_size import measure
from domain.thread.state import INITIAL, Running, State
from domain.windows import LAST, Window, end_of, starts_of
from projections.engine.budget_overruns import Overrun, overrun, same_spending
from projections.engine.thread_status import Status, status_of
from projections.engine.turn_figures import TurnFigures, forked, started

E = TypeVar("E", bound=Event)


class StatusPeriod(Struct, frozen=True, gc=False):
    """A period in which a thread's status stays the same, from the event that began it."""

    status: Status
    version: Version
    since: datetime


class EventContext(Struct, Generic[E], frozen=True, gc=False):
    """An event, and the thread before and after it.

    `starts` are the starts of the windows that it was recorded in. `turn_started_at` is of the turn that runs before or
    after the event, and `turn` are its figures including the event. `status` is the status after it, `period` the
    status period before it. `overrun_before` is the time over budget that lasted until the event, `overrun_after` the
    one that lasts after it.
    """

    event: E
    recorded: Recorded
    at: datetime
    starts: Mapping[Window, datetime]
    tenant: Tenant
    slice: Slice
    thread_id: ThreadId
    graph: str
    before: State
    after: State
    status: Status
    period: StatusPeriod
    turn_started_at: datetime | None
    turn: TurnFigures | None
    overrun_before: Overrun | None
    overrun_after: Overrun | None
    prices: Prices

    @property
    def hour(self) -> datetime:
        """The hour that it was recorded in."""
        return self.starts["hour"]

    @property
    def node(self) -> str:
        """The node in flight."""
        return self.before.turn.node if isinstance(self.before, Running) else ""

    def tool_of(self, version: int) -> str | None:
        """Return the tool of a call that was open before the event; None if the version is not that of a call."""
        calls = self.before.turn.calls if isinstance(self.before, Running) else ()
        return next((call.request.name for call in calls if call.version == version), None)


@dataclass(slots=True)
class FoldedThread:
    """A thread's folded state, with what projections need in addition. `opened_at` is None if it is not known."""

    thread_id: ThreadId
    tenant: Tenant
    head: Head = EMPTY_HEAD
    state: State = INITIAL
    opened_at: datetime | None = None
    turn_started_at: datetime | None = None
    turn: TurnFigures | None = None
    overrun: Overrun | None = None
    period: StatusPeriod = field(default_factory=lambda: StatusPeriod("idle", START, EMPTY_HEAD.at))
    slice: Slice = field(init=False)
    _weight: int = field(init=False, default=0)
    _grown: int = field(init=False, default=0)
    _starts: Mapping[Window, datetime] = field(init=False)
    _until: datetime = field(init=False)
    """The end of the last event's hour."""

    def __post_init__(self) -> None:
        """Compute the slice and the windows."""
        self.slice = slice_of(self.thread_id)
        self._look_up(self.head.at)

    def _look_up(self, at: datetime) -> Mapping[Window, datetime]:
        """Look up the windows of an instant, and keep them: the next event is mostly in the same ones."""
        self._starts, self._until = starts_of(at), end_of("hour", at) or LAST
        return self._starts

    def weigh(self) -> int:
        """Return its approximate size in memory, in bytes."""
        self._weight, self._grown = measure(self.state, self._weight, self._grown)
        return self._weight + self._grown

    @property
    def loaded(self) -> LoadedThread:
        """The thread as the repository gives it."""
        return LoadedThread(self.thread_id, self.tenant, self.head, self.state)

    def apply(self, recorded: Recorded, digest: bytes, prices: Prices) -> EventContext[Any]:
        """Apply the next event, whose hash is `digest`. Raises `CorruptLog` if the state does not allow it."""
        event, at, before = recorded.event, recorded.recorded_at, self.state
        kind, after = type(event), evolve(before, event, at)
        forked = kind is ThreadForked
        if forked:  # the parent's status and overrun stay with the parent
            self.period, self.overrun = StatusPeriod("idle", START, at), None
        if forked or kind is ThreadOpened:
            self.opened_at = at
        if type(after) is Running and (forked or type(before) is not Running):
            self.turn_started_at = at
            self._begin_turn(event, after)
        if self.turn is not None:
            self.turn.add(event, prices)
        overrun_before = overrun_after = self.overrun if self.overrun and self.overrun.lasts(at) else None
        if forked or not same_spending(before, after):
            overrun_after = overrun(after, recorded.version, at, prices, overrun_before)
        status = status_of(after)
        context = EventContext(
            event,
            recorded,
            at,
            self._starts if self._starts["hour"] <= at < self._until else self._look_up(at),
            self.tenant,
            self.slice,
            self.thread_id,
            after.thread.graph,  # type: ignore[union-attr]  # after an event, the thread is open
            before,
            after,
            status,
            self.period,
            self.turn_started_at,
            self.turn,
            overrun_before,
            overrun_after,
            prices,
        )
        self._grown += recorded.size
        self.state, self.head, self.overrun = after, Head(recorded.version, digest, at), overrun_after
        if status != self.period.status:
            if self.period.status == "waiting" and self.turn is not None:
                self.turn.waited_ms += (at - self.period.since) // timedelta(milliseconds=1)
            self.period = StatusPeriod(status, recorded.version, at)
        return context

    def _begin_turn(self, event: Event, after: Running) -> None:
        """Begin the figures of a turn, or of a fork's part of it."""
        if isinstance(event, TurnStarted):
            self.turn = started(event, after)
        elif self.turn is not None:
            self.turn = forked(self.turn)


EventHandler: TypeAlias = Callable[[EventContext[Any]], Iterable[Change]]
ThreadHandler: TypeAlias = Callable[[FoldedThread, Prices], Iterable[Change]]


@dataclass(frozen=True, eq=False)
class Projection:
    """A read model: its tables, and the handlers that turn events into rows.

    It has either event handlers, or one thread handler, which gets each thread of a batch after its last event. With
    both, a thread that one of them parks would be counted twice by the other when it is folded again.

    Raise `version` whenever the same events would make other rows: a new instance is then built while the old serves.
    """

    name: str
    version: int
    tables: tuple[Table, ...]
    events: Mapping[type[Event], EventHandler] = field(default_factory=dict)
    thread: ThreadHandler | None = None

    def __post_init__(self) -> None:
        """Raise `TypeError` unless there are handlers of exactly one kind."""
        if bool(self.events) == bool(self.thread):
            raise TypeError(f"{self.name}: needs either event handlers or a thread handler")

    @property
    def shape(self) -> Shape:
        """What a store of read models needs to know."""
        return Shape(self.name, self.version, self.tables)
