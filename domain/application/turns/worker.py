"""A worker: leases shards, runs their turns, and shares with the workers that come and go.

The owner of a shard's lease runs its turns. Wake-ups say which thread has something to run; every `tick` seconds the
log is asked as well, so that a lost wake-up costs latency only. Leases are renewed by a task of its own, which nothing
that runs here can keep waiting.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import InitVar, dataclass, field
from typing import TypeVar

from domain.application.background_tasks import BackgroundTask, BackgroundTasks
from domain.application.budget.reservations import Reservations
from domain.application.thread_repository import LoadedThread
from domain.application.turns.runner import TurnRunner
from domain.application.turns.shards import Shards
from domain.application.turns.take_up import TakeUp
from domain.errors import LeaseLost, StoreUnavailable, UnknownThread
from domain.ids import Slice, ThreadId, Version, WorkerId
from domain.ports.isolation import Isolation
from domain.ports.leases import LeaseStore
from domain.ports.loans import Loans
from domain.ports.log import Fence
from domain.ports.suspects import Suspects
from domain.ports.wakeups import Lent, SharesChanged, TurnReady, Wakeup, Wakeups
from domain.thread.codec import Metadata, Recorded

_log = logging.getLogger(__name__)

PAGE = 1_000
"""Threads with something to run that are read at a time."""

PAGES_PER_TICK = 10

IDLE_TICKS = 10
"""Ticks after which a process that is to run one turn alone ends if it cannot take it up, such as an unreadable one."""

T = TypeVar("T")


@dataclass
class Worker:
    """Runs the turns of the shards that it holds. `lease` is in seconds.

    On `standby` it works only while no other worker does; with `only`, at nothing but this thread.
    """

    turns: TurnRunner
    leases: LeaseStore
    wakeups: Wakeups
    suspects: Suspects
    loans: Loans
    id: WorkerId
    name: str
    lease: InitVar[float] = 10.0
    standby: InitVar[bool] = False
    only: ThreadId | None = None
    accounts: Reservations | None = None
    """Whose reservations to look after that no process settles, in the shards that it holds."""
    isolation: Isolation | None = None
    """Runs turns that may have ended their process; without one, they run here."""
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    shards: Shards = field(init=False)
    _take_up: TakeUp = field(init=False)
    _begun: bool = field(init=False, default=False)
    _ticking: Sequence[BackgroundTask] = field(init=False, default=())
    """What renews the leases, and what looks for turns."""
    _shares_changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _work_changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _unlisten: Callable[[], None] | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _recovering: asyncio.Task[None] | None = field(init=False, default=None)
    _searched: ThreadId | None = field(init=False, default=None)
    """How far the log was searched for turns to run, at the last tick."""

    def __post_init__(self, lease: float, standby: bool) -> None:
        """Join the parts, and let the turns be run under this worker's leases."""
        self.shards = Shards(
            self.leases,
            self.wakeups,
            self.id,
            self.name,
            lambda: () if self.only else self.turns.agents.keys(),  # of others, such a worker runs none
            lease,
            standby,
            busy=lambda: self._take_up.running(),  # noqa: PLW0108  (it is made after this)
            abandon=lambda shards: self._take_up.abandon(shards),  # noqa: PLW0108  (as above)
            spawn=self._spawn,
        )
        self._take_up = TakeUp(self.turns, self.shards, self.suspects, self.loans, self.isolation, self._spawn)
        self.turns.fence = self.fence

    @asynccontextmanager
    async def working(self, grace: float = 5.0) -> AsyncIterator[None]:
        """Work meanwhile. At the end, turns have `grace` seconds to end; then all shards are free for others."""
        try:
            await self.begin()
            yield
        finally:
            await self.end(grace)

    async def begin(self) -> None:
        """Take shards, and run what there is to run in them, from now on."""
        self.turns.open()
        self._begun = True
        for step in (self.shards.share, self._find_work):
            try:
                await self._patiently(step)
            except Exception:  # noqa: BLE001  (whatever it is, the background task tries again, and tells of it)
                _log.exception("The worker could not look after its shards, and tries again")
        self._unlisten = self.wakeups.listen(self._hear)
        self._ticking = [
            self._start("leases", self.shards.share, self._shares_changed),
            self._start("worker", self._find_work, self._work_changed),
        ]

    async def end(self, grace: float = 5.0) -> None:
        """Take nothing any more. Running turns have `grace` seconds to end; then all shards are free for others.

        Does nothing if it has not begun.
        """
        if not self._begun:
            return
        self._begun = False
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        self.shards.leaving = True
        leases, finding = self._ticking[:1], self._ticking[1:]
        self._ticking = ()
        await self.background.stop(*finding)
        await self._leave(grace, leases)

    def slices(self) -> Sequence[Slice]:
        """Return the slices that are this worker's to look after."""
        return self.shards.slices()

    def fence(self, thread_id: ThreadId) -> Fence:
        """Name the lease that covers a thread; if this worker has none, one that is over."""
        return self._take_up.lending.fence(thread_id)

    async def run_alone(self, thread_id: ThreadId, stopping: asyncio.Event, *, convicted: Version | None) -> None:
        """Run one thread's turn until it has nothing to run, or until `stopping` is set; then it is handed over.

        A turn that began at the version `convicted` or before is not run, but failed. While the store is away, this
        waits: that is no failure of the turn. Raises `UnknownThread`.
        """
        repository, self.only = self.turns.services.repository, thread_id
        row = await self._stored(lambda: repository.store.thread(thread_id))
        if row is None:
            raise UnknownThread(thread_id)
        if convicted is not None:
            tenant = row.tenant
            await self._stored(self.shards.share)
            await self._stored(lambda: self._take_up.convict(thread_id, tenant, convicted))
        async with self.working():
            idle = 0
            while not stopping.is_set() and row and row.in_turn and idle < IDLE_TICKS:
                ran = self.turns.runs(thread_id) is not None
                running = asyncio.create_task(self.turns.wait(thread_id))
                stopped = asyncio.create_task(stopping.wait())
                await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not ran:  # it is not taken up yet, or waits to be resumed
                    await asyncio.wait({stopped}, timeout=self.shards.tick)
                idle = 0 if ran else idle + 1
                running.cancel()
                stopped.cancel()
                row = await self._stored(lambda: repository.store.thread(thread_id))

    async def _stored(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store, however long it is away."""
        while True:
            try:
                return await ask()
            except (StoreUnavailable, TimeoutError) as error:
                _log.warning("A turn that runs alone waits for the store: %r", error)
                await asyncio.sleep(self.shards.tick)

    def ready(self, loaded: LoadedThread, metadata: Metadata, begun: Recorded | None = None) -> None:
        """Have a thread's turn run, which a command has begun or let go on: here, or by the worker that holds it.

        `begun` is the event that the turn began with, if the command has begun one.
        """
        if not self._take_up.may_run(loaded.thread_id):
            self.wakeups.send(TurnReady(loaded.thread_id, loaded.tenant))
        elif not self._take_up.begin_now(loaded, metadata, begun):
            self._spawn(self._take_up.take(loaded.thread_id, loaded.tenant))

    def _hear(self, wakeup: Wakeup) -> None:
        match wakeup:
            case SharesChanged():
                self._shares_changed.set()
            case Lent(worker) if worker == self.id:
                self._work_changed.set()
            case TurnReady(thread_id, tenant) if self._take_up.may_run(thread_id) and self.only in {None, thread_id}:
                self._spawn(self._take_up.take(thread_id, tenant))

    def _start(self, name: str, step: Callable[[], Awaitable[None]], woken: asyncio.Event) -> BackgroundTask:
        tick = self.shards.tick  # leases are to be renewed in time, whatever has failed
        return self.background.start(
            name, lambda: self._forever(step, woken), first_pause=min(1.0, tick), longest_pause=tick
        )

    async def _forever(self, step: Callable[[], Awaitable[None]], woken: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.shards.tick):
                    await woken.wait()
            woken.clear()
            await self._patiently(step)

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("The worker tries again to renew its leases and to find turns: %r", error)

    async def _find_work(self) -> None:
        """Ask the log what there is to run, and whether others have written to what runs."""
        store = self.turns.services.repository.store
        running = self.turns.running()
        for thread_id, version in (await store.versions(running.keys())).items() if running else ():
            if version > running[thread_id]:
                self._spawn(self.turns.stop_if_cancelled(thread_id))
        await self._take_up.refresh()
        await self._search()
        self._look_after_reservations()

    async def _search(self) -> None:
        """Take up what the log says can run: some pages of it, and the next ones at the next tick."""
        held = self._take_up.shards_reviewed()
        for _ in range(PAGES_PER_TICK if held else 0):
            rows = await self.turns.services.repository.store.runnable(held, PAGE, self._searched)
            self._take_up.lending.note_runnable((row.thread_id for row in rows), first=self._searched is None)
            for row in rows:
                if self.only in {None, row.thread_id} and self._take_up.is_wanted(row.thread_id):
                    self._spawn(self._take_up.find(row.thread_id, row.tenant))
            self._searched = rows[-1].thread_id if len(rows) == PAGE else None
            if self._searched is None:
                return

    def _look_after_reservations(self) -> None:
        """End what calls have left open whose process is gone: beside the ticks, as leases are to be renewed."""
        if self.accounts is not None and self.shards.held() and (self._recovering is None or self._recovering.done()):
            self._recovering = self._spawn(self._recover(self.accounts))

    async def _recover(self, accounts: Reservations) -> None:
        epochs = self.shards.epochs()
        lent = await self.loans.lent_from(epochs.keys())  # calls at borrowers are under these epochs as well
        ended = await accounts.recover(
            epochs, self._store_if_idle, lambda thread_id: thread_id in lent or thread_id in self._take_up.lone.running
        )
        if ended.settled or ended.released:
            _log.info("Of calls that were left open, %d had answered, %d had not", ended.settled, ended.released)

    async def _store_if_idle(self, thread_id: ThreadId) -> None:
        """Store what was answered in a thread. Raises `StoreUnavailable` where that cannot be asked."""
        repository = self.turns.services.repository
        row = await repository.store.thread(thread_id)
        if row and row.in_turn and self._take_up.may_be_answered(await repository.load(thread_id, row.tenant)):
            await self._take_up.store_answer(thread_id, strict=True)

    async def _leave(self, grace: float, leases: Sequence[BackgroundTask]) -> None:
        """Let turns end, or be handed over, for `grace` seconds, while the leases are renewed; give everything back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.shards.leave(lambda: self._close(grace))
            await self.background.stop(*leases)
            await self.shards.give_all_back()
        except Exception:  # noqa: BLE001  (then the leases run out by themselves)
            _log.exception("The worker could not give its leases back")
            await self._close(0)
        finally:
            await self.background.stop(*leases)
            self.shards.forget()

    async def _close(self, grace: float) -> None:
        await asyncio.gather(self._take_up.close(), self.turns.close(grace, hand_over=self.shards.others))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseLost):
            self._shares_changed.set()
        elif isinstance(error, StoreUnavailable):
            _log.warning("What a worker has to do for its threads waits for the store: %s", error)
        elif error is not None:
            _log.error("A turn could not be taken up, and is tried again: %r", error, exc_info=error)
