"""One run of a turn by this process: where the thread is, what is said of it, and a handle to stop it."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from domain.application.budget.turn_budget import BudgetServices, TurnBudget, crossed
from domain.application.command_handler import CommandRequest, execute
from domain.application.recall.search import MessageSearch
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.model_fallback import ModelFallback
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.staging import StagedReport, append_of, decided_again, stage, store_staged
from domain.application.turns.unreported_calls import UnreportedCalls, calls_in
from domain.application.turns.user_code import Deadline
from domain.errors import LeaseLost, StoreUnavailable, TurnIsOver, VersionConflict
from domain.ids import ThreadId, TurnId, Version
from domain.ports.hot import HOT_TIMEOUT_S, HotStore
from domain.ports.log import Fence
from domain.ports.tokens import TokenCounter
from domain.thread.codec import Metadata, Recorded, decode
from domain.thread.commands import Command, NoteCalls, Report, TellThreshold
from domain.thread.events import BudgetThresholdReached, Durability, ModelCalled
from domain.thread.state import Running, Turn

_log = logging.getLogger(__name__)

T = TypeVar("T")

MOMENT = 0.005
"""Seconds that a report may wait for the next one, to be stored with it."""

UNLIMITED_S = 3_600.0
"""Seconds that calls of models may take where no node's deadline applies."""

AWAY = 1.0
"""Seconds between two attempts to store what was kept back, while the store is away."""


@dataclass(frozen=True)
class TurnServices:
    """What turns are run with."""

    repository: ThreadRepository
    models: ModelFallback
    tokens: TokenCounter
    broadcast: Broadcast
    context_window: int
    account: BudgetServices
    prompt_parts: PromptParts
    hot: HotStore | None = None
    """Where answers of durability `async` are held until they are stored; without one, in memory only."""
    recall: MessageSearch | None = None
    """Finds older messages that matter again; without one, nothing is recalled."""


@dataclass
class TurnRun:
    """A turn's run. Its number makes its reports count no more once another worker has resumed the turn.

    `fence` names the lease under which a thread's turn is run.
    """

    services: TurnServices
    loaded: LoadedThread
    metadata: Metadata
    fence: Callable[[ThreadId], Fence | None] = lambda _: None
    turn_id: TurnId = field(init=False)
    number: int = field(init=False)
    stopping: bool = field(init=False, default=False)
    """Whether somebody has asked that the turn end."""
    durability: Durability = field(init=False, default="sync")
    spending: TurnBudget = field(init=False)
    unreported: UnreportedCalls = field(init=False)
    """Calls of models that no report has yet."""
    answered: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set when the answer is there, though it may not be stored yet."""
    _staged: list[StagedReport] = field(init=False, default_factory=list)
    _untold: list[TellThreshold] = field(init=False, default_factory=list)
    _durable: LoadedThread | None = field(init=False, default=None)
    """The thread as it is stored, while something is kept back."""
    _number: int = field(init=False, default=0)
    """Of the last report."""
    _unanswered: set[bytes] = field(init=False, default_factory=set)
    """Hashes of reports whose append was cut off, or got no answer: the log may have them."""
    _unsettled: deque[tuple[LoadedThread, LoadedThread, Sequence[Recorded]]] = field(init=False, default_factory=deque)
    """Stored events, and the thread before and after them, whose calls of models are to be settled."""
    _limit: Deadline | None = field(init=False, default=None)
    _away: bool = field(init=False, default=False)
    """Whether it was said that the store is away."""
    _closed: bool = field(init=False, default=False)
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
        self.spending = TurnBudget(self.services.account, self.loaded.tenant, self.thread_id, graph)
        self.unreported = UnreportedCalls(self.spending)

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.loaded.thread_id

    @cached_property
    def place(self) -> str:
        """Name the turn and its thread, for logs."""
        return f"turn {self.turn_id} in thread {self.thread_id}"

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
        a moment, to be stored with it. While the store is away, this waits, and that does not count as the node's time.

        A report is sealed before it is stored, and kept until it is known to be. If this is cancelled meanwhile, the
        next report stores it, or finds it in the log by its hash: it is stored exactly once.

        Returns the events; none if that is no news.

        Raises:
            TurnIsOver: the turn does not run here any more.
            LeaseLost: another worker has the shard.
            InvalidInput: see `decide`.
        """
        async with self._lock:
            self._check_open()
            command = self.unreported.carried_by(command)
            self._number += 1
            staged = stage(self.services.repository, self.loaded, command, self.metadata, self._number)
            if staged is None:
                return ()
            self._durable = self._durable or self.loaded
            self._staged.append(staged)
            self.loaded = staged.after
            self.unreported.said(command)
            sync, over = self.durability == "sync", self.turn is None or self.turn.waits
            if over and self.durability == "async" and await self._held():
                self.answered.set()
            if durable or over or (sync and not soon):
                return (await self._store_staged()).get(staged.number, ())
            if sync:
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
        except Exception as error:  # noqa: BLE001  (whatever it is, the next report meets it as well)
            _log.debug("What was kept back in %s is stored with the next report: %r", self.thread_id, error)

    async def _held(self) -> bool:
        """Hold what is kept back where it outlives this process. False: then nothing may be answered yet."""
        if self.services.hot is None or self._durable is None:
            return True
        try:
            async with asyncio.timeout(HOT_TIMEOUT_S):
                await self.services.hot.put(append_of(self._durable, self._staged))
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("The answer in %s waits until it is stored: %r", self.thread_id, error)
            return False
        return True

    async def save(self) -> None:
        """Store what was kept back."""
        async with self._lock:
            await self._store_staged()

    def forget(self) -> None:
        """Drop what was kept back: another worker has the turn, and it counts no more."""
        self._staged, self._durable = [], None

    def take_back(self) -> None:
        """Drop what was kept back, since it cannot be stored. The calls of models in it are told otherwise."""
        for called in calls_in(each.report for each in self._staged):
            self.unreported.keep(called)
        self.forget()

    @property
    def durable_version(self) -> Version:
        """Where the thread ends for everybody else."""
        return (self._durable or self.loaded).head.version

    @property
    def kept(self) -> Sequence[Recorded]:
        """The events that are not stored yet."""
        return [recorded for each in self._staged for recorded in each.sealed.recorded]

    async def _settle(self) -> None:
        """Settle what stored calls of models have taken, and record which thresholds that has reached.

        A task that is cancelled meanwhile leaves the rest to the next report: to settle a call twice changes nothing.
        """
        while self._unsettled:
            before, after, stored = self._unsettled[0]
            reached: Sequence[BudgetThresholdReached] = ()
            try:
                reached = await self.spending.settle(stored)
            except Exception:  # noqa: BLE001  (what matters is stored: nothing is done again because of this)
                _log.exception("What calls of models in %s have taken is settled later", self.thread_id)
            own = crossed(before.state, after.state, after.head.at, self.services.account.prices)
            self._untold += map(TellThreshold, (*own, *reached))
            self._unsettled.popleft()
        if self._untold:
            await self._tell_thresholds()

    async def _tell_thresholds(self) -> None:
        telling = asyncio.ensure_future(execute(self.services.repository, self._request(tuple(self._untold))))
        try:
            outcome = await asyncio.shield(telling)
        except (StoreUnavailable, LeaseLost) as error:  # what matters is stored; this is told with the next report
            _log.warning("It is told later in %s that most of a budget is spent: %s", self.thread_id, error)
            return
        except asyncio.CancelledError:  # it is told nevertheless
            self._untold.clear()
            telling.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        self._untold.clear()
        self.loaded = outcome.loaded
        self.services.broadcast.send(self.thread_id, outcome.events)

    def _request(self, commands: Sequence[Command]) -> CommandRequest:
        return CommandRequest(
            self.thread_id,
            lambda _: commands,
            self.metadata,
            self.loaded.tenant,
            known=self.loaded,
            fence=self.fence(self.thread_id),
        )

    async def _store_staged(self) -> Mapping[int, Sequence[Recorded]]:
        """Store what was kept back, however long the store is away: it is nowhere else.

        Returns the events of each report that is stored now, by its number.
        """
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        stored: dict[int, Sequence[Recorded]] = {}
        with self.uncounted():
            while self._staged:
                self._check_open()
                try:
                    stored |= await self._store_once()
                except StoreUnavailable as error:
                    await self.store_is_away(error)
            self._away = False
            self._durable = None
            await self._settle()
        return stored

    async def _store_once(self) -> Mapping[int, Sequence[Recorded]]:
        """Store what was kept back, or find out why it cannot be. Raises `StoreUnavailable`, and has lost nothing."""
        before, staged = self._durable, tuple(self._staged)
        if before is None:
            raise RuntimeError("What is kept back follows on nothing")
        try:
            moved, stored = await store_staged(self.services.repository, before, staged, self.fence(self.thread_id))
        except VersionConflict:
            return await self._after_conflict(before, staged)
        except BaseException:
            self._unanswered.update(each.after.head.hash for each in staged)
            raise
        self._unanswered.clear()
        self._staged, self._durable, self.loaded = [], None, moved
        self._unsettled.append((before, moved, stored))
        self.services.broadcast.send(self.thread_id, stored)
        if self.services.hot and self.answered.is_set():
            with suppress(TimeoutError):  # it is found later, with a log that has it
                async with asyncio.timeout(HOT_TIMEOUT_S):
                    await self.services.hot.drop(self.thread_id)
        return {each.number: each.sealed.recorded for each in staged}

    async def _after_conflict(
        self, before: LoadedThread, staged: Sequence[StagedReport]
    ) -> Mapping[int, Sequence[Recorded]]:
        """Read what is in the log by now: reports that are kept back, stored by an attempt that was cut off, or others.

        More may have been kept back since an attempt that was cut off: it refers to what is stored by the versions
        that this has indeed. What others have written comes before what is left, which is decided again after it.
        """
        repository = self.services.repository
        now = await repository.load(self.thread_id, self.loaded.tenant)
        written = repository.records(self.thread_id, before.head.version)
        meanwhile = [record async for record in written if record.version <= now.head.version]
        hashes = self._unanswered.intersection(record.hash for record in meanwhile)
        ours = [each for each in staged if each.after.head.hash in hashes]
        left, durable = list(staged[len(ours) :]), ours[-1].after if ours else before
        events = [recorded for each in ours for recorded in each.sealed.recorded]
        others = [decode(record) for record in meanwhile if record.version > durable.head.version]
        again: list[StagedReport] = left
        calls: Sequence[ModelCalled] = ()
        if now.head.hash != durable.head.hash:
            again, calls = decided_again(repository, now, durable, left, self.metadata, others)
            durable = now
        self._staged, self._durable = again, durable
        self._unanswered.clear()
        self.loaded = again[-1].after if again else now
        for called in calls:
            self.unreported.keep(called)
        if events:
            self._unsettled.append((before, ours[-1].after, events))
            self.services.broadcast.send(self.thread_id, events)
        if others:  # some may be ours, stored by a run of this turn that was cut off
            self._unsettled.append((now, now, others))
        if self.turn and self.turn.cancelling:  # what is to tell this process so may have been lost
            self.stop()
        return {each.number: each.sealed.recorded for each in ours}

    async def store_is_away(self, error: StoreUnavailable) -> None:
        """Wait a while for the store."""
        if not self._away:
            _log.warning("The turn of %s waits for the store: %s", self.thread_id, error)
        self._away = True
        with self.uncounted():
            await asyncio.sleep(AWAY)

    async def patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what reads or reserves, again and again while the store is away. That does not count as a node's time."""
        while True:
            with self.uncounted():
                try:
                    return await act()
                except StoreUnavailable as error:
                    self._check_open()
                    await self.store_is_away(error)

    async def refresh(self) -> None:
        """Read what others have written; what was kept back is stored first. Raises `StoreUnavailable`."""
        await self.save()
        self.loaded = await self.services.repository.load(self.thread_id, self.loaded.tenant)

    async def note_calls(self) -> None:
        """Record the calls that no report has, where none will follow soon."""
        if self.unreported and self.turn is not None:
            await self.report(NoteCalls(self.turn_id, run=self.number))

    def close(self) -> None:
        """Store nothing any more: the turn is over, or does not run here any more."""
        self._closed = True
        if self._moment is not None:
            self._moment.cancel()
            self._moment = None
        self.spending.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TurnIsOver

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Let the time that passes meanwhile not count as the node's."""
        if self._limit is None:
            yield
        else:
            with self._limit.paused():
                yield

    @property
    def time_left(self) -> float:
        """Seconds that the node in flight has left."""
        return self._limit.left if self._limit else UNLIMITED_S

    @contextmanager
    def interruptible(self, limit: Deadline) -> Iterator[None]:
        """Let `stop` bring a deadline forward."""
        self._limit = limit
        if self.stopping:
            limit.end_now()
        try:
            yield
        finally:
            self._limit = None

    def stop(self) -> None:
        """End what the run is doing: its turn is to be cancelled."""
        self.stopping = True
        if self._limit is not None:
            self._limit.end_now()

    async def pause(self, seconds: float) -> None:
        """Wait, unless the turn is to end."""
        limit = Deadline(seconds)
        with self.interruptible(limit):
            await limit.passed()
