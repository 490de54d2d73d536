"""One run of a turn by this process: where the thread is, what is said of it, and a handle to stop it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from domain.application.execute import Request, execute
from domain.application.journal import Journal, Loaded
from domain.application.signals import Signals
from domain.chat import ChatModel
from domain.codec import Metadata, Recorded
from domain.commands import Report
from domain.errors import TurnIsOver
from domain.ids import ThreadId, TurnId
from domain.ports import Fence, TokenCounter
from domain.state import Running, Turn


@dataclass(frozen=True)
class Means:
    """What turns are run with."""

    journal: Journal
    model: ChatModel
    tokens: TokenCounter
    signals: Signals
    context_window: int


@dataclass
class Run:
    """A turn's run. Its number makes its reports count no more once another worker has resumed the turn.

    `fence` names the lease under which a thread's turn is run.
    """

    means: Means
    loaded: Loaded
    metadata: Metadata
    fence: Callable[[ThreadId], Fence | None] = lambda _: None
    turn_id: TurnId = field(init=False)
    number: int = field(init=False)
    stopping: bool = field(init=False, default=False)
    """Whether somebody has asked that the turn end."""
    _limit: asyncio.Timeout | None = field(init=False, default=None)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Remember which turn, and which run of it, this is: the thread may move on."""
        if not isinstance(self.loaded.state, Running):
            raise TurnIsOver
        self.turn_id = TurnId(self.loaded.state.turn.turn_id)
        self.number = self.loaded.state.turn.run

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.loaded.thread_id

    @property
    def turn(self) -> Turn | None:
        """The turn as it is now; None if it has ended, or another worker has resumed it."""
        state = self.loaded.state
        ours = isinstance(state, Running) and (state.turn.turn_id, state.turn.run) == (self.turn_id, self.number)
        return state.turn if isinstance(state, Running) and ours else None

    async def report(self, command: Report) -> Sequence[Recorded]:
        """Store what happened at once, and tell whoever watches. One after the other: a thread has one order.

        Returns the events; none if that is no news. Raises like `execute`.
        """
        async with self._lock:
            request = Request(
                self.thread_id,
                lambda _: (command,),
                self.metadata,
                self.loaded.tenant,
                known=self.loaded,
                fence=self.fence(self.thread_id),
            )
            outcome = await execute(self.means.journal, request)
            self.loaded = outcome.loaded
            self.means.signals.send(self.thread_id, outcome.events)
            return outcome.events

    async def refresh(self) -> None:
        """Read what others have written."""
        self.loaded = await self.means.journal.load(self.thread_id, self.loaded.tenant)

    @contextmanager
    def interruptible(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Let `stop` end what is done within `limit`: a `TimeoutError`, with `stopping` set."""
        self._limit = limit
        try:
            yield
        finally:
            self._limit = None

    def stop(self) -> None:
        """End what the run is doing: its turn is to be cancelled."""
        self.stopping = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def pause(self, seconds: float) -> None:
        """Wait, unless the turn is to end."""
        limit = asyncio.timeout(0 if self.stopping else seconds)
        with suppress(TimeoutError), self.interruptible(limit):
            async with limit:
                await asyncio.get_running_loop().create_future()
