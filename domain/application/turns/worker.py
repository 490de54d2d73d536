"""A worker: leases shards, runs their turns, and shares the shards with other workers.

The owner of a shard's lease runs its turns. Wake-ups name threads that have something to run. The log is searched as
well, once a tick, so a lost wake-up only costs latency. Leases are renewed by a task of its own, which no turn can
delay.
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
from domain.application.turns.shard_leases import Shards
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

MAX_PAGE_THREADS = 1_000
"""Threads with something to run that are read at a time."""

MAX_PAGES_PER_TICK = 10

MAX_IDLE_TICKS = 10
"""Ticks after which a process that has to run one turn alone gives up, such as on an unreadable thread."""

T = TypeVar("T")


@dataclass
class Worker:
    """Runs the turns of the shards that it holds. `lease` is in seconds.

    On `standby` it takes shards only while no other worker is alive. With `only`, it runs just this thread's turns.
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
    reservations: Reservations | None = None
    """The budget reservations. In its shards, this worker ends those that a dead process has left open."""
    isolation: Isolation | None = None
    """Runs turns that may have crashed their process; without one, they run here."""
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    shards: Shards = field(init=False)
    _take_up: TakeUp = field(init=False)
    _begun: bool = field(init=False, default=False)
    _ticking: Sequence[BackgroundTask] = field(init=False, default=())
    """The tasks that renew the leases, and that look for turns."""
    _shares_changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _work_changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _unlisten: Callable[[], None] | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _recovering: asyncio.Task[None] | None = field(init=False, default=None)
    _search_cursor: ThreadId | None = field(init=False, default=None)
    """The thread after which the next tick continues the search of the log."""

    def __post_init__(self, lease: float, standby: bool) -> None:
        """Create the parts, and run turns under this worker's leases."""
        self.shards = Shards(
            self.leases,
            self.wakeups,
            self.id,
            self.name,
            lambda: () if self.only else self.turns.known.announced(),  # a worker for one thread borrows no others
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
        """Work while the block runs. At its end, turns have `grace` seconds to end; then all leases are released."""
        try:
            await self.begin()
            yield
        finally:
            await self.end(grace)

    async def begin(self) -> None:
        """Lease shards, and run their turns from now on."""
        self.turns.open()
        self._begun = True
        for step in (self.shards.share, self._find_work):
            try:
                await self._unless_unavailable(step)
            except Exception:  # noqa: BLE001  (whatever it is, the background task logs it and tries again)
                _log.exception("The first renewal of leases or search for turns failed. It is tried again")
        self._unlisten = self.wakeups.listen(self._on_wakeup)
        self._ticking = [
            self._start("leases", self.shards.share, self._shares_changed),
            self._start("worker", self._find_work, self._work_changed),
        ]

    async def end(self, grace: float = 5.0) -> None:
        """Take up no more turns. Running turns have `grace` seconds to end; then all leases are released.

        Does nothing if the worker has not begun.
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
        """Return the slices of the shards that this worker holds."""
        return self.shards.slices()

    def fence(self, thread_id: ThreadId) -> Fence:
        """Return the fencing token for a thread. Without a lease or a loan, appends with it are refused."""
        return self._take_up.lending.fence(thread_id)

    async def run_alone(self, thread_id: ThreadId, stopping: asyncio.Event, *, convicted: Version | None) -> None:
        """Run one thread's turn until it has nothing to run. Once `stopping` is set, hand the turn over.

        A turn that began at the version `convicted` or before is failed and not run. While the store is unavailable,
        this waits: the turn is not to blame for that. Raises `UnknownThread`.
        """
        repository, self.only = self.turns.services.repository, thread_id
        row = await self._retried(lambda: repository.store.thread(thread_id))
        if row is None:
            raise UnknownThread(thread_id)
        if convicted is not None:
            tenant = row.tenant
            await self._retried(self.shards.share)
            await self._retried(lambda: self._take_up.convict(thread_id, tenant, convicted))
        async with self.working():
            idle_ticks = 0
            while not stopping.is_set() and row and row.in_turn and idle_ticks < MAX_IDLE_TICKS:
                ran = self.turns.runs(thread_id) is not None
                running = asyncio.create_task(self.turns.wait(thread_id))
                stopped = asyncio.create_task(stopping.wait())
                await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not ran:  # the turn is not taken up yet, or waits to be resumed
                    await asyncio.wait({stopped}, timeout=self.shards.tick)
                idle_ticks = 0 if ran else idle_ticks + 1
                running.cancel()
                stopped.cancel()
                row = await self._retried(lambda: repository.store.thread(thread_id))

    async def _retried(self, query: Callable[[], Awaitable[T]]) -> T:
        """Query the store; retry while it is unavailable."""
        while True:
            try:
                return await query()
            except (StoreUnavailable, TimeoutError) as error:
                _log.warning("A turn that runs alone waits for the store: %r", error)
                await asyncio.sleep(self.shards.tick)

    def ready(self, loaded: LoadedThread, metadata: Metadata, begun: Recorded | None = None) -> None:
        """Run a thread's turn after a command that began it or lets it continue: here, or in the shard's owner.

        `begun` is the first event of the turn, if the command has begun one.
        """
        if not self._take_up.may_run(loaded.thread_id):
            self.wakeups.send(TurnReady(loaded.thread_id, loaded.tenant))
        elif not self._take_up.begin_now(loaded, metadata, begun):
            self._spawn(self._take_up.take(loaded.thread_id, loaded.tenant))

    def _on_wakeup(self, wakeup: Wakeup) -> None:
        match wakeup:
            case SharesChanged():
                self._shares_changed.set()
            case Lent(worker) if worker == self.id:
                self._work_changed.set()
            case TurnReady(thread_id, tenant) if self._take_up.may_run(thread_id) and self.only in {None, thread_id}:
                self._spawn(self._take_up.take(thread_id, tenant))

    def _start(self, name: str, step: Callable[[], Awaitable[None]], woken: asyncio.Event) -> BackgroundTask:
        tick = self.shards.tick  # leases have to be renewed in time, whatever has failed

        async def each_tick() -> None:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(tick):
                        await woken.wait()
                woken.clear()
                await self._unless_unavailable(step)

        return self.background.start(name, each_tick, first_pause=min(1.0, tick), longest_pause=tick)

    async def _unless_unavailable(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step. If the store is unavailable, log that: the next tick tries again."""
        try:
            await step()
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("The worker tries again to renew its leases and to find turns: %r", error)

    async def _find_work(self) -> None:
        """Search the log for turns to run, and for cancellations of those that run here."""
        store = self.turns.services.repository.store
        running = self.turns.running()
        for thread_id, version in (await store.versions(running.keys())).items() if running else ():
            if version > running[thread_id]:
                self._spawn(self.turns.stop_if_cancelled(thread_id))
        await self._take_up.refresh()
        await self._search()
        # In a task of its own, which a tick does not wait for.
        if (
            self.reservations is not None
            and self.shards.held()
            and (self._recovering is None or self._recovering.done())
        ):
            self._recovering = self._spawn(self._recover(self.reservations))

    async def _search(self) -> None:
        """Take up turns that the log has, `MAX_PAGES_PER_TICK` pages at a tick. The next tick continues."""
        held = self._take_up.shards_reviewed()
        for _ in range(MAX_PAGES_PER_TICK if held else 0):
            rows = await self.turns.services.repository.store.runnable(held, MAX_PAGE_THREADS, self._search_cursor)
            first = self._search_cursor is None
            self._take_up.lending.note_runnable((row.thread_id for row in rows), first=first)
            for row in rows:
                if self.only in {None, row.thread_id} and self._take_up.is_wanted(row.thread_id):
                    self._spawn(self._take_up.find(row.thread_id, row.tenant))
            self._search_cursor = rows[-1].thread_id if len(rows) == MAX_PAGE_THREADS else None
            if self._search_cursor is None:
                return

    async def _recover(self, reservations: Reservations) -> None:
        """End the reservations of calls whose process has died."""
        epochs, lone = self.shards.epochs(), self._take_up.lone
        lent = await self.loans.lent_from(epochs.keys())  # calls of borrowers have these epochs as well
        ended = await reservations.recover(
            epochs, self._store_if_idle, lambda thread_id: thread_id in lent or thread_id in lone.running
        )
        if ended.settled or ended.released:
            _log.info("Ended reservations of dead processes: %d settled, %d released", ended.settled, ended.released)

    async def _store_if_idle(self, thread_id: ThreadId) -> None:
        """Store an answer that a dead worker gave. Raises `StoreUnavailable` if that cannot be found out."""
        repository = self.turns.services.repository
        row = await repository.store.thread(thread_id)
        if row and row.in_turn and self._take_up.may_be_answered(await repository.load(thread_id, row.tenant)):
            await self._take_up.store_answer(thread_id, strict=True)

    async def _leave(self, grace: float, leases: Sequence[BackgroundTask]) -> None:
        """Let turns end, or hand them over, for `grace` seconds, while the leases are renewed. Then release them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.shards.leave(lambda: self._close(grace))
            await self.background.stop(*leases)
            await self.shards.give_all_back()
        except Exception:  # noqa: BLE001  (then the leases expire)
            _log.exception("The worker could not release its leases. They expire")
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
            _log.warning("A task of the worker waits for the store: %s", error)
        elif error is not None:
            _log.error("A turn could not be taken up, and is tried again: %r", error, exc_info=error)
