"""What a projection is: a value that says which rows events come to.

Handlers are pure. They see an event with the thread's folded state before and after it, and say rows; how rows become
one with those that are there is the table's business. So a projection has no memory of its own to lose.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct

from domain.application.thread_repository import LoadedThread
from domain.budget.prices import Prices
from domain.ids import START, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import NOTHING, Head
from domain.ports.read_models import Shape
from domain.read_models.tables import Change, Table
from domain.thread.codec import Recorded
from domain.thread.events import Event, ThreadForked, ThreadOpened
from domain.thread.evolve import evolve
from domain.thread.memory_size import weighed
from domain.thread.state import INITIAL, Running, State
from domain.windows import LAST, Window, end_of, starts_of
from projections.engine.budget_overruns import Overrun, overrun, spent_alike
from projections.engine.thread_status import Status, status_of

E = TypeVar("E", bound=Event)


class StatusPeriod(Struct, frozen=True, gc=False):
    """A time in which a thread's status was the same, from the event that brought it about."""

    status: Status
    version: Version
    since: datetime


class EventContext(Struct, Generic[E], frozen=True, gc=False):
    """An event, and what the thread was like before and after it.

    `starts` are the starts of the windows that it was recorded in. `turn_started_at` is of the turn that runs before or
    after the event. `status` is the status after it, `period` the status period before it. `overrun_before` is the time
    over budget that lasted until the event, `overrun_after` the one that lasts after it.
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


@dataclass(slots=True)
class FoldedThread:
    """A thread as it is told: its folded state, and since when it is so.

    `opened_at` is known if it is told from its beginning.
    """

    thread_id: ThreadId
    tenant: Tenant
    head: Head = NOTHING
    state: State = INITIAL
    opened_at: datetime | None = None
    turn_started_at: datetime | None = None
    overrun: Overrun | None = None
    period: StatusPeriod = field(default_factory=lambda: StatusPeriod("idle", START, NOTHING.at))
    slice: Slice = field(init=False)
    _weight: int = field(init=False, default=0)
    _grown: int = field(init=False, default=0)
    _starts: Mapping[Window, datetime] = field(init=False)
    _until: datetime = field(init=False)
    """Where the hour ends that the last event was in."""

    def __post_init__(self) -> None:
        """Place the thread."""
        self.slice = slice_of(self.thread_id)
        self._look_up(self.head.at)

    def _look_up(self, at: datetime) -> Mapping[Window, datetime]:
        """Look up the windows that an instant lies in: the next event is mostly in the same."""
        self._starts, self._until = starts_of(at), end_of("hour", at) or LAST
        return self._starts

    def weigh(self) -> int:
        """Return about how many bytes it takes in memory."""
        self._weight, self._grown = weighed(self.state, self._weight, self._grown)
        return self._weight + self._grown

    @property
    def loaded(self) -> LoadedThread:
        """The thread as the repository gives it."""
        return LoadedThread(self.thread_id, self.tenant, self.head, self.state)

    def apply(self, recorded: Recorded, digest: bytes, prices: Prices) -> EventContext[Any]:
        """Go on with the next event, whose hash is `digest`. Raises `CorruptLog` if it cannot follow."""
        event, at, before = recorded.event, recorded.recorded_at, self.state
        kind, after = type(event), evolve(before, event, at)
        forked = kind is ThreadForked
        if forked:  # what the parent was doing is the parent's
            self.period, self.overrun = StatusPeriod("idle", START, at), None
        if forked or kind is ThreadOpened:
            self.opened_at = at
        if type(after) is Running and (forked or type(before) is not Running):
            self.turn_started_at = at
        overrun_before = overrun_after = self.overrun if self.overrun and self.overrun.lasts(at) else None
        if forked or not spent_alike(before, after):
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
            after.thread.graph,  # type: ignore[union-attr]  # after an event, a thread is open
            before,
            after,
            status,
            self.period,
            self.turn_started_at,
            overrun_before,
            overrun_after,
            prices,
        )
        self._grown += recorded.size
        self.state, self.head, self.overrun = after, Head(recorded.version, digest, at), overrun_after
        if status != self.period.status:
            self.period = StatusPeriod(status, recorded.version, at)
        return context


EventHandler: TypeAlias = Callable[[EventContext[Any]], Iterable[Change]]
ThreadHandler: TypeAlias = Callable[[FoldedThread, Prices], Iterable[Change]]


@dataclass(frozen=True, eq=False)
class Projection:
    """A read model: its tables, and what each event, or a thread after its last one, comes to in them.

    It has either handlers of events or one of threads: a thread that is left out for one of them, and told again later,
    would else be counted twice by the others.

    Raise `version` whenever it would make other rows of the same events: a new instance is then built beside the old.
    """

    name: str
    version: int
    tables: tuple[Table, ...]
    events: Mapping[type[Event], EventHandler] = field(default_factory=dict)
    thread: ThreadHandler | None = None

    def __post_init__(self) -> None:
        """Refuse handlers of both kinds."""
        if bool(self.events) == bool(self.thread):
            raise TypeError(f"{self.name}: give it handlers of events, or one of threads")

    @property
    def shape(self) -> Shape:
        """What a store needs to know of it."""
        return Shape(self.name, self.version, self.tables)
