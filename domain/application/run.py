"""One run of a turn by this process: where the thread is, what is said of it, and a handle to stop it."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from domain.application.asking import Models
from domain.application.execute import Request, execute
from domain.application.fixtures import Fixtures
from domain.application.journal import Journal, Loaded
from domain.application.recalling import Recall
from domain.application.signals import Signals
from domain.application.spending import Account, Spending, crossed
from domain.application.staging import Staged, append_of, decided_again, stage, store_staged
from domain.application.unsaid import Unsaid
from domain.codec import Metadata, Recorded
from domain.commands import Command, NoteCalls, Report, TellThreshold
from domain.errors import LeaseLost, StoreUnavailable, ThreadfoldError, TurnIsOver, VersionConflict
from domain.events import Durability
from domain.ids import ThreadId, TurnId, Version
from domain.ports.hot import HotStore
from domain.ports.log import Fence
from domain.ports.tokens import TokenCounter
from domain.state import Running, Turn

_log = logging.getLogger(__name__)

MOMENT = 0.005
"""Seconds that a report may wait for the next one, to be stored with it."""

AWAY = 1.0
"""Seconds between two attempts to store what was kept back, while the store is away."""


@dataclass(frozen=True)
class Means:
    """What turns are run with."""

    journal: Journal
    models: Models
    tokens: TokenCounter
    signals: Signals
    context_window: int
    account: Account
    fixtures: Fixtures
    hot: HotStore | None = None
    """Where answers of durability `async` are held until they are stored; without one, in memory only."""
    recall: Recall | None = None
    """Finds older messages that matter again; without one, nothing is recalled."""


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
    durability: Durability = field(init=False, default="sync")
    spending: Spending = field(init=False)
    unsaid: Unsaid = field(init=False)
    """Calls of models that no report has yet."""
    answered: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set when the answer is there, though it may not be stored yet."""
    _staged: list[Staged] = field(init=False, default_factory=list)
    _untold: list[TellThreshold] = field(init=False, default_factory=list)
    _durable: Loaded | None = field(init=False, default=None)
    """The thread as it is stored, while something is kept back."""
    _limit: asyncio.Timeout | None = field(init=False, default=None)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _moment: asyncio.TimerHandle | None = field(init=False, default=None)
    _saving: asyncio.Task[None] | None = field(init=False, default=None)
    """Held, so that it is not collected before it ends."""

    def __post_init__(self) -> None:
        """Remember which turn, and which run of it, this is: the thread may move on."""
        if not isinstance(self.loaded.state, Running):
            raise TurnIsOver
        self.turn_id = TurnId(self.loaded.state.turn.turn_id)
        self.number = self.loaded.state.turn.run
        self.durability = self.loaded.state.turn.durability
        graph = self.loaded.state.thread.graph
        self.spending = Spending(self.means.account, self.loaded.tenant, self.thread_id, graph)
        self.unsaid = Unsaid(self.spending)

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

    async def report(self, command: Report, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        """Store what happened, and tell whoever watches. One after the other: a thread has one order.

        What need not be `durable` before the next report may be kept back, if the turn's durability says so, until
        the turn ends or waits. Whatever that says, a report which the next one is to follow `soon` may wait for it for
        a moment, to be stored with it. Returns the events; none if that is no news. Raises like `execute`.
        """
        async with self._lock:
            command = self.unsaid.carried_by(command)
            sync = self.durability == "sync"
            if sync and not soon and not self._staged:
                return await self._store(command)
            staged = stage(self.means.journal, self.loaded, command, self.metadata)
            if staged is None:
                return ()
            self._durable = self._durable or self.loaded
            self._staged.append(staged)
            self.loaded = staged.after
            self.unsaid.said(command)
            over = self.turn is None or self.turn.waits
            if over and self.durability == "async" and await self._held():
                self.answered.set()
            if durable or over or (sync and not soon):
                await self._store_staged()
            elif sync:
                self._save_soon()
            return staged.sealed.recorded

    def _save_soon(self) -> None:
        """Store what is kept back in a moment, unless the next report is stored by then, and this with it."""
        if self._moment is None:
            self._moment = asyncio.get_running_loop().call_later(MOMENT, self._moment_is_over)

    def _moment_is_over(self) -> None:
        self._moment = None
        if self._staged:
            self._saving = asyncio.create_task(self._save_safely(), name=f"events of {self.thread_id}")

    async def _save_safely(self) -> None:
        """Store what is kept back; what goes wrong with that, the next report meets as well."""
        try:
            await self.save()
        except ThreadfoldError as error:
            _log.debug("What was kept back in %s is stored with the next report: %r", self.thread_id, error)

    async def _held(self) -> bool:
        """Hold what is kept back where it outlives this process. False: then nothing may be answered yet."""
        if self.means.hot is None or self._durable is None:
            return True
        try:
            await self.means.hot.put(append_of(self._durable, self._staged))
        except StoreUnavailable as error:
            _log.warning("The answer in %s waits until it is stored: %s", self.thread_id, error)
            return False
        return True

    async def save(self) -> None:
        """Store what was kept back."""
        async with self._lock:
            await self._store_staged()

    def forget(self) -> None:
        """Drop what was kept back: another worker has the turn, and it counts no more."""
        self._staged, self._durable = [], None

    @property
    def durable_version(self) -> Version:
        """Where the thread ends for everybody else."""
        return (self._durable or self.loaded).head.version

    @property
    def kept(self) -> Sequence[Recorded]:
        """The events that are not stored yet."""
        return [recorded for each in self._staged for recorded in each.sealed.recorded]

    async def _store(self, command: Report) -> Sequence[Recorded]:
        before = self.loaded
        outcome = await execute(self.means.journal, self._request((command,)))
        self.loaded = outcome.loaded
        if outcome.events:
            self.unsaid.said(command)
        self.means.signals.send(self.thread_id, outcome.events)
        await self._settle(before, outcome.events)
        return outcome.events

    async def _settle(self, before: Loaded, stored: Sequence[Recorded]) -> None:
        """Settle what stored calls of models have taken, and record which thresholds that has reached."""
        await self._count(before, self.loaded, stored)
        if not self._untold:
            return
        try:
            outcome = await execute(self.means.journal, self._request(tuple(self._untold)))
        except (StoreUnavailable, LeaseLost) as error:  # what matters is stored; this is told with the next report
            _log.warning("It is told later in %s that most of a budget is spent: %s", self.thread_id, error)
            return
        self._untold.clear()
        self.loaded = outcome.loaded
        self.means.signals.send(self.thread_id, outcome.events)

    async def _count(self, before: Loaded, after: Loaded, stored: Sequence[Recorded]) -> None:
        """Settle what calls have taken between two states of the thread; what that has reached is told later."""
        own = crossed(before.state, after.state, after.head.at, self.means.account.prices)
        self._untold += map(TellThreshold, (*own, *await self.spending.settle(stored)))

    def _request(self, commands: Sequence[Command]) -> Request:
        return Request(
            self.thread_id,
            lambda _: commands,
            self.metadata,
            self.loaded.tenant,
            known=self.loaded,
            fence=self.fence(self.thread_id),
        )

    async def _store_staged(self) -> None:
        """Store what was kept back, however long the store is away: it is nowhere else."""
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        journal, fence = self.means.journal, self.fence(self.thread_id)
        while self._staged and self._durable:
            try:
                moved, stored = await store_staged(journal, self._durable, self._staged, fence)
            except VersionConflict:
                if await self._drop_stored():
                    continue
                before, now = self._durable, await journal.load(self.thread_id, self.loaded.tenant)
                stored = [r async for r in journal.follow(self.thread_id, before.head.version, now.head.version)]
                await self.spending.settle(stored)  # some may be ours, stored by an attempt that was cut off
                self._durable = now
                self._staged = decided_again(journal, now, before, self._staged, self.metadata, stored)
                self.loaded = self._staged[-1].after if self._staged else self._durable
            except StoreUnavailable:
                await asyncio.sleep(AWAY)
            else:
                before, self._staged, self._durable, self.loaded = self._durable, [], None, moved
                if self.means.hot and self.answered.is_set():
                    await self.means.hot.drop(self.thread_id)
                self.means.signals.send(self.thread_id, stored)
                await self._settle(before, stored)
        self._durable = None

    async def _drop_stored(self) -> bool:
        """Drop what turns out to be stored, by an attempt that got no answer, and go on from there. False: nothing is.

        More may have been kept back since: it refers to what is stored by the versions that this has indeed.
        """
        journal, before = self.means.journal, self._durable
        if before is None:
            return False
        hashes = [record.hash async for record in journal.records(self.thread_id, before.head.version)]
        ours = [each for each in self._staged if each.after.head.hash in hashes]
        if not ours:
            return False
        self._staged, self._durable = self._staged[len(ours) :], ours[-1].after
        events = [recorded for each in ours for recorded in each.sealed.recorded]
        self.means.signals.send(self.thread_id, events)
        if self._staged:
            await self._count(before, self._durable, events)
        else:
            self.loaded = await journal.load(self.thread_id, self.loaded.tenant)
            await self._settle(before, events)
        return True

    async def refresh(self) -> None:
        """Read what others have written; what was kept back is stored first."""
        await self.save()
        known = self.loaded.head.version
        self.loaded = await self.means.journal.load(self.thread_id, self.loaded.tenant)
        if self.unsaid:  # a report that got no answer may be stored
            followed = self.means.journal.follow(self.thread_id, known, self.loaded.head.version)
            await self.spending.settle(self.unsaid.found([recorded async for recorded in followed]))

    async def note_calls(self) -> None:
        """Record the calls that no report has, where none will follow soon."""
        if self.unsaid and self.turn is not None:
            await self.report(NoteCalls(self.turn_id, run=self.number))

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
