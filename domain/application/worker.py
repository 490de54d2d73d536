"""A worker: leases shards, runs their turns, and shares with the workers that come and go.

Whoever holds a shard's lease runs its turns. Wake-ups say which thread has something to run; every `tick` seconds the
log is asked as well, so that a lost wake-up costs latency only. A turn that another worker has left is resumed at the
node in flight, by an event that makes all further reports of that worker count no more.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.application.accounts import Accounts
from domain.application.background import BackgroundTask, BackgroundTasks
from domain.application.execute import Request, execute
from domain.application.journal import Loaded
from domain.application.turns import Turns, story
from domain.codec import Metadata
from domain.commands import ResumeTurn
from domain.errors import LeaseLost, StoreUnavailable, VersionConflict
from domain.ids import SHARDS, Shard, Slice, Tenant, ThreadId, TurnId, WorkerId, shard_of, slice_of, slices_of
from domain.ports.leases import Lease, LeaseStore
from domain.ports.log import Fence
from domain.ports.wakeups import SharesChanged, TurnReady, Wakeup, Wakeups
from domain.state import Running, Turn

_log = logging.getLogger(__name__)

BATCH = 1_000
"""Threads with something to run that are looked at in one go."""

PATIENCE = 5.0
"""Seconds that a turn has to end by itself before its shard goes to a worker that has too few."""


@dataclass
class Worker:
    """Runs the turns of the shards that it holds. `lease` and `tick` are in seconds.

    On `standby` it works only while no other worker does; with `only`, at nothing but this thread.
    """

    turns: Turns
    leases: LeaseStore
    wakeups: Wakeups
    id: WorkerId
    name: str
    lease: float = 10.0
    standby: bool = False
    only: ThreadId | None = None
    accounts: Accounts | None = None
    """Whose reservations to look after that nobody settles, in the shards that it holds."""
    background: BackgroundTasks = field(default_factory=BackgroundTasks)
    _ticking: BackgroundTask | None = field(init=False, default=None)
    _held: dict[Shard, Lease] = field(init=False, default_factory=dict)
    _valid_until: float = field(init=False, default=0.0)
    _too_many_since: float | None = field(init=False, default=None)
    _others: bool = field(init=False, default=False)
    _asked_at: float = field(init=False, default=0.0)
    _taking: set[ThreadId] = field(init=False, default_factory=set)
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _unlisten: Callable[[], None] = field(init=False, default=lambda: None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _recovering: asyncio.Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Let the turns be run under this worker's leases."""
        self.turns.fence = self.fence

    @property
    def tick(self) -> float:
        """Seconds between two looks at leases and log."""
        return min(self.lease / 4, 2.0)

    @asynccontextmanager
    async def working(self, grace: float = 5.0) -> AsyncIterator[None]:
        """Work meanwhile. At the end, turns have `grace` seconds to end; then all shards are free for others."""
        await self.begin()
        try:
            yield
        finally:
            await self.end(grace)

    async def begin(self) -> None:
        """Take shards, and run what there is to run in them, from now on."""
        await self._tick_safely()
        self._unlisten = self.wakeups.listen(self._hear)
        pause = min(1.0, self.tick)  # leases are to be renewed in time, whatever has failed
        self._ticking = self.background.start("worker", self._tick_forever, first_pause=pause, longest_pause=self.tick)

    async def end(self, grace: float = 5.0) -> None:
        """Take nothing any more. Running turns have `grace` seconds to end; then all shards are free for others.

        Does nothing if it has not begun.
        """
        if self._ticking is None:
            return
        self._unlisten()
        await self.background.stop(self._ticking)
        self._ticking = None
        await self._leave(grace)

    def holds(self, thread_id: ThreadId) -> bool:
        """Say whether this worker may begin to run a turn of the thread."""
        held = shard_of(slice_of(thread_id)) in self._held
        return held and asyncio.get_running_loop().time() < self._valid_until

    def slices(self) -> Sequence[Slice]:
        """Return the slices that are this worker's to look after."""
        if asyncio.get_running_loop().time() >= self._valid_until:
            return []
        return [Slice(slice_) for shard in sorted(self._held) for slice_ in slices_of(shard)]

    def fence(self, thread_id: ThreadId) -> Fence:
        """Name the lease that covers a thread; if this worker has none, one that is over."""
        shard = shard_of(slice_of(thread_id))
        lease = self._held.get(shard)
        return Fence(shard, lease.epoch if lease else 0)

    def ready(self, loaded: Loaded, metadata: Metadata) -> None:
        """Have a thread's turn run, which a command has begun or let go on: here, or by the worker that holds it."""
        if not self.holds(loaded.thread_id):
            self.wakeups.send(TurnReady(loaded.thread_id, loaded.tenant))
        elif self._is_untouched(loaded):
            self.turns.start(loaded, metadata)
        else:
            self._spawn(self._take(loaded.thread_id, loaded.tenant))

    def _hear(self, wakeup: Wakeup) -> None:
        match wakeup:
            case SharesChanged():
                self._woken.set()
            case TurnReady(thread_id, tenant) if self.holds(thread_id) and self.only in {None, thread_id}:
                self._spawn(self._take(thread_id, tenant))

    async def _take(self, thread_id: ThreadId, tenant: Tenant) -> None:
        """Run a thread's turn if there is something to run; stop it if it runs here and is to end."""
        await self.turns.look(thread_id)
        if thread_id in self._taking:
            return
        self._taking.add(thread_id)
        try:
            await self.turns.wait(thread_id)
            await self._begin(thread_id, tenant)
        except LeaseLost:
            self._woken.set()
        finally:
            self._taking.discard(thread_id)

    async def _store_what_was_answered(self, thread_id: ThreadId) -> None:
        """Store what a worker that is gone had answered and not stored, if the thread is still as it was then.

        Otherwise somebody has written to it since, and the turn goes on after that.
        """
        hot = self.turns.means.hot
        held = await hot.get(thread_id) if hot else None
        if hot is None or held is None:
            return
        with suppress(VersionConflict):
            await self.turns.means.journal.store.append(replace(held, fence=self.fence(thread_id)))
            _log.info("Stored what was answered in %s", thread_id)
        await hot.drop(thread_id)

    async def _begin(self, thread_id: ThreadId, tenant: Tenant) -> None:
        if not self.holds(thread_id):
            return
        if self.turns.runs(thread_id) is None:
            await self._store_what_was_answered(thread_id)
        loaded = await self.turns.means.journal.load(thread_id, tenant)
        state = loaded.state
        if not isinstance(state, Running) or state.turn.waits or self.turns.runs(thread_id):
            return
        if state.thread.graph not in self.turns.agents:
            _log.warning("No agent here is called %r: the turn of %s waits", state.thread.graph, thread_id)
            return
        if not self._is_untouched(loaded):
            resumed = await self._resume(loaded, state.turn)
            if resumed is None:
                return
            loaded = resumed
        if self.holds(thread_id) and isinstance(loaded.state, Running):
            self.turns.start(loaded, await story(self.turns.means.journal, loaded))

    async def _resume(self, loaded: Loaded, turn: Turn) -> Loaded | None:
        """Take over a turn that another worker has left. None: somebody else did, or it is over now."""
        graph = self.turns.agents[loaded.state.thread.graph].graph.fingerprint  # type: ignore[union-attr]
        command = ResumeTurn(TurnId(turn.turn_id), turn.run, self.name, graph)
        request = Request(
            loaded.thread_id,
            lambda _: (command,),
            await story(self.turns.means.journal, loaded),
            loaded.tenant,
            known=loaded,
            fence=self.fence(loaded.thread_id),
        )
        outcome = await execute(self.turns.means.journal, request)
        self.turns.means.signals.send(loaded.thread_id, outcome.events)
        _log.info("Going on with the turn of %s at node %s", loaded.thread_id, turn.node)
        return outcome.loaded if outcome.events else None

    def _is_untouched(self, loaded: Loaded) -> bool:
        """Say whether a turn has just begun, under this worker's lease: then nobody else can have run it."""
        state, lease = loaded.state, self._held.get(shard_of(slice_of(loaded.thread_id)))
        if not isinstance(state, Running) or lease is None:
            return False
        turn, agent = state.turn, self.turns.agents.get(state.thread.graph)
        return (
            (turn.step, turn.attempt, turn.run, turn.calls, turn.items) == (0, 1, 0, (), None)
            and not turn.cancelling
            and loaded.head.at > lease.since
            and self.turns.crashed.get(loaded.thread_id) != turn.turn_id
            and agent is not None
            and agent.graph.fingerprint == turn.graph
        )

    async def _tick_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.tick):
                    await self._woken.wait()
            self._woken.clear()
            await self._tick()

    async def _tick(self) -> None:
        try:
            await self._share()
            await self._find_work()
            self._look_after_reservations()
        except StoreUnavailable as error:
            _log.warning("The worker tries again to renew its leases: %s", error)

    async def _tick_safely(self) -> None:
        try:
            await self._tick()
        except Exception:  # noqa: BLE001  (whatever it is, it is no reason to stop working)
            _log.exception("The worker could not look after its shards, and tries again")

    async def _share(self) -> None:
        """Renew the leases; take shards, or give some back, so that every worker has as many."""
        asked = asyncio.get_running_loop().time()
        standing = await self.leases.renew(self.id, self.name, self.lease, standby=self.standby)
        held = {lease.shard: lease for lease in standing.leases}
        lost = self._held.keys() - held.keys()
        self._held = held
        self._valid_until = asked + self.lease
        self._others = standing.workers > (0 if self.standby else 1)
        await self._abandon(lost)
        share = self._share_of(standing.workers)
        if len(held) < share:
            claimed = await self.leases.claim(self.id, self.lease, share - len(held))
            self._held |= {lease.shard: lease for lease in claimed}
            self._ask_for_shares(asked, SHARDS // max(standing.workers, 1))
        await self._give_back(len(held) - share)

    def _ask_for_shares(self, now: float, least: int) -> None:
        """Remind those who have too many, but not over and over: they may be frozen."""
        if len(self._held) < least and now - self._asked_at > self.tick / 2:
            self._asked_at = now
            self.wakeups.send(SharesChanged())

    def _share_of(self, workers: int) -> int:
        if self.standby:
            return 0 if workers else SHARDS
        return -(-SHARDS // max(workers, 1))

    async def _give_back(self, surplus: int) -> None:
        """Release shards that others should have: idle ones first, and after a while the others, too."""
        if surplus <= 0:
            self._too_many_since = None
            return
        now = asyncio.get_running_loop().time()
        self._too_many_since = self._too_many_since or now
        busy = {shard_of(slice_of(thread_id)) for thread_id in self.turns.running()}
        idle = [shard for shard in self._held if shard not in busy]
        impatient = now - self._too_many_since > PATIENCE
        given = (idle + [shard for shard in self._held if shard in busy and impatient])[:surplus]
        await self._release(given)

    async def _release(self, shards: list[Shard]) -> None:
        if not shards:
            return
        for shard in shards:
            self._held.pop(shard, None)
        await self._abandon(set(shards))
        await self.leases.release(self.id, shards)
        self.wakeups.send(SharesChanged())

    async def _abandon(self, shards: Collection[Shard]) -> None:
        """Stop running what another worker goes on with."""
        threads = [thread_id for thread_id in self.turns.running() if shard_of(slice_of(thread_id)) in shards]
        await asyncio.gather(*[self.turns.abandon(thread_id) for thread_id in threads])

    async def _find_work(self) -> None:
        """Ask the log what there is to run, and whether somebody has written to what runs."""
        store = self.turns.means.journal.store
        running = self.turns.running()
        for thread_id, version in (await store.versions(running.keys())).items() if running else ():
            if version > running[thread_id]:
                self._spawn(self.turns.look(thread_id))
        for row in await store.runnable(self._held.keys(), BATCH) if self._held else ():
            if self.turns.runs(row.thread_id) is None and self.only in {None, row.thread_id}:
                self._spawn(self._take(row.thread_id, row.tenant))

    def _look_after_reservations(self) -> None:
        """End what calls have left open whose process is gone: beside the ticks, as leases are to be renewed."""
        if self.accounts is not None and self._held and (self._recovering is None or self._recovering.done()):
            self._recovering = self._spawn(self._recover(self.accounts))

    async def _recover(self, accounts: Accounts) -> None:
        epochs = {shard: lease.epoch for shard, lease in self._held.items()}
        ended = await accounts.recover(epochs, self._store_if_idle)
        if ended.settled or ended.released:
            _log.info("Of calls that were left open, %d had answered, %d had not", ended.settled, ended.released)

    async def _store_if_idle(self, thread_id: ThreadId) -> None:
        if self.turns.runs(thread_id) is None:
            await self._store_what_was_answered(thread_id)

    async def _leave(self, grace: float) -> None:
        """Give idle shards back at once, and the others as soon as their turns have ended, or after `grace`."""
        self._valid_until = 0.0
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        busy = {shard_of(slice_of(thread_id)) for thread_id in self.turns.running()}
        try:
            await self._release([shard for shard in self._held if shard not in busy])
            await self.turns.close(grace, hand_over=self._others)
            await self.leases.leave(self.id)
            self.wakeups.send(SharesChanged())
        except Exception:  # noqa: BLE001  (then the leases run out by themselves)
            _log.exception("The worker could not give its leases back")
            await self.turns.close(0)
        self._held = {}

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("A turn could not be taken up, and is tried again: %r", error, exc_info=error)
