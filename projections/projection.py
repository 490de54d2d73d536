"""What a projection is: a value that says which rows events come to.

Handlers are pure. They see an event with the thread's folded state before and after it, and say rows; how rows become
one with those that are there is the table's business. So a projection has no memory of its own to lose.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from domain.application.journal import Loaded
from domain.chain import NOTHING, Head
from domain.codec import Recorded
from domain.events import Event, ThreadForked, ThreadOpened
from domain.evolve import evolve
from domain.ids import START, Tenant, ThreadId, Version
from domain.prices import Prices
from domain.read_models import Shape
from domain.state import INITIAL, Running, State
from domain.tables import Change, Table
from projections.overruns import Overrun, overrun
from projections.status import Status, status_of


@dataclass(frozen=True, slots=True)
class Seen:
    """An event, and what the thread was like before and after it.

    `turn_started_at` is of the turn that runs before or after the event; `spell` of the status before it; `was_over`
    is the time over budget that lasted until then, and `is_over` what becomes of it.
    """

    tenant: Tenant
    recorded: Recorded
    before: State
    after: State
    turn_started_at: datetime | None
    spell: "Spell"
    was_over: Overrun | None
    is_over: Overrun | None
    prices: Prices

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return self.recorded.recorded_at

    @property
    def hour(self) -> datetime:
        """The hour that it was recorded in."""
        return self.at.replace(minute=0, second=0, microsecond=0)

    @property
    def thread_id(self) -> ThreadId:
        """The thread that it happened in."""
        return self.recorded.thread_id

    @property
    def graph(self) -> str:
        """The thread's graph."""
        return self.after.thread.graph  # type: ignore[union-attr]  # after an event, a thread is open

    @property
    def node(self) -> str:
        """The node in flight."""
        return self.before.turn.node if isinstance(self.before, Running) else ""


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which a thread's status was the same, from the event that brought it about."""

    status: Status
    version: Version
    since: datetime


@dataclass(slots=True)
class Story:
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
    spell: Spell = field(default_factory=lambda: Spell("idle", START, NOTHING.at))

    @property
    def loaded(self) -> Loaded:
        """The thread as the journal gives it."""
        return Loaded(self.thread_id, self.tenant, self.head, self.state)

    def tell(self, recorded: Recorded, digest: bytes, prices: Prices) -> Seen:
        """Go on with the next event, whose hash is `digest`. Raises `CorruptLog` if it cannot follow."""
        before, at = self.state, recorded.recorded_at
        after = evolve(before, recorded.event, at)
        forked = isinstance(recorded.event, ThreadForked)
        if forked:  # what the parent was doing is the parent's
            self.spell, self.overrun = Spell("idle", START, at), None
        if forked or isinstance(recorded.event, ThreadOpened):
            self.opened_at = at
        if isinstance(after, Running) and (forked or not isinstance(before, Running)):
            self.turn_started_at = at
        was_over = self.overrun if self.overrun and self.overrun.lasts(at) else None
        is_over = overrun(after, recorded.version, at, prices, was_over)
        started_at = self.turn_started_at
        seen = Seen(self.tenant, recorded, before, after, started_at, self.spell, was_over, is_over, prices)
        self.overrun = is_over
        self.state, self.head = after, Head(recorded.version, digest, at)
        status = status_of(after)
        if status != self.spell.status:
            self.spell = Spell(status, recorded.version, at)
        return seen


EventHandler = Callable[[Seen], Iterable[Change]]
ThreadHandler = Callable[[Story, Prices], Iterable[Change]]


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
