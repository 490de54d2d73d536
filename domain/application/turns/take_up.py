"""Taking up the turns of threads that this worker may run: beginning, resuming, isolating, or lending them.

A turn that another worker has left is resumed at the node in flight, by an event that makes all further reports of
that worker count no more. A turn that may have ended its process runs in a process of its own (see
`domain.ports.suspects`). A turn of an agent that this process does not know is lent to a worker that knows it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread
from domain.application.turns.runner import CrashedTurn, TurnRunner, beginning, causing_command_of, first_event
from domain.application.turns.shards import Shards
from domain.errors import LeaseLost, StoreUnavailable, VersionConflict
from domain.ids import Shard, Tenant, ThreadId, TurnId, Version, WorkerId, shard_of, slice_of
from domain.ports.hot import HOT_TIMEOUT_S
from domain.ports.isolation import Isolation
from domain.ports.leases import WorkerRow
from domain.ports.loans import Loan, Loans
from domain.ports.log import Fence
from domain.ports.suspects import MAX_LONE_CRASHES, Suspect, Suspects
from domain.ports.wakeups import Lent
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import FailTurn, ResumeTurn
from domain.thread.state import Running, Turn

Spawn: TypeAlias = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]

_log = logging.getLogger(__name__)

ISOLATED_AT_ONCE = 4
"""Turns that run in processes of their own at the same time."""

ISOLATION_PAUSE_S = 5.0
"""Seconds before an isolated turn is tried again after its process crashed."""

LOADED_AT_ONCE = 50
"""Threads that are loaded at the same time when the log is searched for turns to take up."""

BROKEN_PAUSE_S = 60.0
"""Seconds before a thread is tried again that could not be taken up because of an error."""

MAX_CRASHES_HERE = 5
"""How often the run of a turn may end with an error that is not its nodes' before the turn fails."""


class _Foreign(Struct, frozen=True):
    """A thread whose agent this process does not know, and the worker that it is lent to, if there is one."""

    graph: str
    asked_at: float
    worker: WorkerId | None = None
    fresh: bool = True
    """Met since the search of the log last began."""


@dataclass
class TakeUp:
    """Takes up turns. `spawn` runs a task."""

    turns: TurnRunner
    shards: Shards
    suspects: Suspects
    loans: Loans
    isolation: Isolation | None
    spawn: Spawn
    _suspected: Mapping[ThreadId, Suspect] = field(init=False, default_factory=dict)
    _known: Mapping[Shard, int] = field(init=False, default_factory=dict)
    """The shards, with their epochs, whose suspects are known."""
    _taking: set[ThreadId] = field(init=False, default_factory=set)
    _finding: set[ThreadId] = field(init=False, default_factory=set)
    _gate: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(LOADED_AT_ONCE))
    _isolated: dict[ThreadId, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _cells: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(ISOLATED_AT_ONCE))
    _given_up: set[ThreadId] = field(init=False, default_factory=set)
    """Threads that even failing their turn crashes a process: this worker leaves them alone."""
    _broken: dict[ThreadId, float] = field(init=False, default_factory=dict)
    """Threads that could not be taken up, such as unreadable ones, and when that is tried again."""
    _foreign: dict[ThreadId, _Foreign] = field(init=False, default_factory=dict)
    """Threads of this worker's shards whose agents it does not know."""
    _met: set[ThreadId] = field(init=False, default_factory=set)
    """Those of them that the search of the log has met this time."""
    _borrowed: dict[ThreadId, Fence] = field(init=False, default_factory=dict)
    _workers: Sequence[WorkerRow] = field(init=False, default=())
    """The workers that were alive at the last look."""
    _missing: set[str] = field(init=False, default_factory=set)
    """Agents that no worker knew when a turn of theirs was met."""

    def may_run(self, thread_id: ThreadId) -> bool:
        """Say whether this worker may begin to run a turn of the thread: not before it knows the shard's suspects."""
        shard = shard_of(slice_of(thread_id))
        if self.shards.hold(thread_id):
            return self._known.get(shard) == self.shards.fence(thread_id).epoch
        return thread_id in self._borrowed and self.shards.valid

    def shards_known(self) -> Sequence[Shard]:
        """Name the shards that are held and whose suspects are known."""
        epochs = self.shards.epochs()
        return [shard for shard, epoch in self._known.items() if epochs.get(shard) == epoch]

    def fence(self, thread_id: ThreadId) -> Fence:
        """Name the lease under which the thread's turns run here."""
        if thread_id in self._borrowed and shard_of(slice_of(thread_id)) not in self.shards.held():
            return self._borrowed[thread_id]
        return self.shards.fence(thread_id)

    def running(self) -> Collection[ThreadId]:
        """Name the threads whose turns run here, or in a process of their own for this worker."""
        return {*self.turns.running(), *self._isolated}

    def runs_alone(self, thread_id: ThreadId) -> bool:
        """Say whether the thread's turn runs, or is to run, in a process of its own."""
        return thread_id in self._isolated

    def begin_now(self, loaded: LoadedThread, metadata: Metadata, begun: Recorded | None) -> bool:
        """Begin a turn at once if no other worker can have run it: `begun` is the event that it began with."""
        thread_id = loaded.thread_id
        if thread_id in self._suspected or thread_id in self._isolated or not self._is_untouched(loaded, begun):
            return False
        self.turns.start(loaded, metadata)
        return True

    async def look(self) -> None:
        """Read again which workers there are, which turns are suspects, and what is lent to this worker."""
        self._workers = await self.shards.leases.workers()
        lent = {loan.thread_id: loan for loan in await self.loans.lent_to(self.shards.id)}
        epochs = self.shards.epochs()
        self._suspected = await self.suspects.of(epochs.keys(), lent)
        self._known = epochs
        self._given_up &= self._suspected.keys()
        await self._borrow(lent)
        self._review_foreign()

    async def _borrow(self, lent: Mapping[ThreadId, Loan]) -> None:
        """Run what is lent; stop what is lent no more, and give back what has nothing to run."""
        ended = [thread_id for thread_id, fence in self._borrowed.items() if _fence_of(lent.get(thread_id)) != fence]
        self._borrowed = {thread_id: loan.fence for thread_id, loan in lent.items()}
        for thread_id in ended:
            if not self.shards.hold(thread_id):
                self.spawn(self._abandon_one(thread_id))
        for thread_id, loan in lent.items():
            if thread_id in self.running() or thread_id in self._taking:
                continue
            if loan.runnable and thread_id not in self._finding:
                self.spawn(self.find(thread_id, loan.tenant))
            elif not loan.runnable:
                del self._borrowed[thread_id]
                await self.loans.give_back(self.shards.id, thread_id)

    def _review_foreign(self) -> None:
        """Forget threads that are not this worker's any more, and those that another worker can be asked for now."""
        alive = {row.id for row in self._workers}
        known = {name for row in self._workers for name in row.agents}
        self._missing -= known
        for thread_id, foreign in list(self._foreign.items()):
            again = foreign.worker not in alive if foreign.worker else foreign.graph in known
            if again or not self.shards.hold(thread_id):
                del self._foreign[thread_id]

    def note_runnable(self, threads: Iterable[ThreadId], *, first: bool) -> None:
        """Note what has something to run, page by page from the `first` on; what was in no page has nothing."""
        if first:
            self._foreign = {
                id_: foreign for id_, foreign in self._foreign.items() if id_ in self._met or foreign.fresh
            }
            self._foreign = {id_: replace(foreign, fresh=False) for id_, foreign in self._foreign.items()}
            self._met = set()
        self._met |= self._foreign.keys() & set(threads)

    def lacks(self, thread_id: ThreadId) -> bool:
        """Say whether a thread that has something to run is not taken up yet."""
        if thread_id in self.running() or thread_id in self._given_up or thread_id in self._finding:
            return False
        if _now() < self._broken.get(thread_id, 0.0):
            return False
        self._broken.pop(thread_id, None)
        foreign = self._foreign.get(thread_id)
        # A loan may have ended, and a wake-up been lost: it is said again, but not at every tick.
        return foreign is None or _now() - foreign.asked_at > self.shards.lease

    async def find(self, thread_id: ThreadId, tenant: Tenant) -> None:
        """Take up a thread that the log says has something to run."""
        self._finding.add(thread_id)
        try:
            if foreign := self._foreign.get(thread_id):
                await self._lend(thread_id, tenant, foreign.graph)
                return
            async with self._gate:
                await self.take(thread_id, tenant)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception:
            self._broken[thread_id] = _now() + BROKEN_PAUSE_S
            raise
        finally:
            self._finding.discard(thread_id)

    async def take(self, thread_id: ThreadId, tenant: Tenant) -> None:
        """Run a thread's turn if there is something to run; stop it if it runs here and is to end.

        Raises `LeaseLost`: another worker has the shard.
        """
        await self.turns.look(thread_id)
        if thread_id in self._taking or thread_id in self._isolated:
            return
        self._taking.add(thread_id)
        try:
            await self.turns.wait(thread_id)
            if self.may_run(thread_id):
                await self._take(thread_id, tenant)
        finally:
            self._taking.discard(thread_id)

    async def abandon(self, shards: Collection[Shard]) -> None:
        """Stop running what another worker goes on with."""
        threads = [id_ for id_ in self.running() if shard_of(slice_of(id_)) in shards and id_ not in self._borrowed]
        await asyncio.gather(*[self._abandon_one(thread_id) for thread_id in threads])

    async def close(self) -> None:
        """Hand over what runs in processes of its own."""
        await asyncio.gather(*[self._release_cell(thread_id) for thread_id in list(self._isolated)])

    async def _abandon_one(self, thread_id: ThreadId) -> None:
        await self._release_cell(thread_id)
        await self.turns.abandon(thread_id)

    async def _release_cell(self, thread_id: ThreadId) -> None:
        if cell := self._isolated.get(thread_id):
            cell.cancel()
            await asyncio.gather(cell, return_exceptions=True)

    async def _take(self, thread_id: ThreadId, tenant: Tenant) -> None:
        suspect = self._suspected.get(thread_id)
        if suspect and suspect.isolated and self.isolation and self.turns.runs(thread_id) is None:
            if thread_id not in self._given_up:
                self._isolate(self.isolation, thread_id, suspect)
            return
        loaded = await self.turns.services.repository.load(thread_id, tenant)
        if self.may_be_answered(loaded) and await self.store_answer(thread_id):
            loaded = await self.turns.services.repository.load(thread_id, tenant)
        state = loaded.state
        if not isinstance(state, Running) or state.turn.waits or self.turns.runs(thread_id):
            return
        if state.thread.graph not in self.turns.agents:
            await self._lend(thread_id, tenant, state.thread.graph)
            return
        repository = self.turns.services.repository
        begun = await beginning(repository, loaded)
        metadata = await causing_command_of(repository, begun)
        if begun.thread_id != thread_id:  # of a fork, the parent's: the fork's own events begin here
            begun = await first_event(repository, thread_id)
        if self._is_untouched(loaded, begun):
            self.turns.start(loaded, metadata)
        elif (crashed := self.turns.crashed.get(thread_id)) and crashed.turn_id == state.turn.turn_id:
            await self._after_crash_here(loaded, metadata, crashed)
        else:
            await self._resume(loaded, metadata)

    async def _resume(self, loaded: LoadedThread, metadata: Metadata) -> None:
        """Take over a turn that another worker has left, unless a third one was faster, or it is over now."""
        state = loaded.state
        if not isinstance(state, Running):
            return
        graph, turn = self.turns.agents[state.thread.graph].graph.fingerprint, state.turn
        command = ResumeTurn(TurnId(turn.turn_id), turn.run, self.shards.name, graph)
        resumed = await self._report(loaded, metadata, command)
        if resumed is None:
            return
        _log.info("Going on with the turn of %s at node %s", loaded.thread_id, turn.node)
        if self.may_run(loaded.thread_id) and isinstance(resumed.state, Running):
            self.turns.start(resumed, metadata)

    async def _after_crash_here(self, loaded: LoadedThread, metadata: Metadata, crashed: CrashedTurn) -> None:
        """Resume a turn whose run ended with an error, after a growing pause; fail it after too many of them.

        No other turn is to blame: the error came out of this one's own task.
        """
        if _now() < crashed.not_before:
            return
        if crashed.times <= MAX_CRASHES_HERE:
            await self._resume(loaded, metadata)
            return
        detail = f"Its run ended with an error {crashed.times} times, the last time with {crashed.error}"
        await self._fail(loaded, metadata, detail)

    async def convict(self, thread_id: ThreadId, tenant: Tenant, upto: Version) -> None:
        """Fail the running turn of a thread if it began at a version or before.

        Each process that ran it crashed, even the last ones, which ran nothing else.
        """
        loaded = await self.turns.services.repository.load(thread_id, tenant)
        if isinstance(loaded.state, Running) and loaded.state.turn.started <= upto:
            metadata = await causing_command_of(
                self.turns.services.repository, await beginning(self.turns.services.repository, loaded)
            )
            await self._fail(loaded, metadata, "Each process that ran it crashed or hung, the last ones with it alone.")

    async def _fail(self, loaded: LoadedThread, metadata: Metadata, detail: str) -> None:
        state = loaded.state
        if isinstance(state, Running):
            turn = state.turn
            command = FailTurn(TurnId(turn.turn_id), "resumed_too_often", f"{turn.node}: {detail}", turn.run)
            await self._report(loaded, metadata, command)
            _log.error("The turn of %s fails at node %s. %s", loaded.thread_id, turn.node, detail)

    async def _report(
        self, loaded: LoadedThread, metadata: Metadata, command: ResumeTurn | FailTurn
    ) -> LoadedThread | None:
        """Store a report on a turn that does not run here. None if that is no news."""
        repository, fence = self.turns.services.repository, self.fence(loaded.thread_id)
        request = CommandRequest(
            loaded.thread_id, lambda _: (command,), metadata, loaded.tenant, known=loaded, fence=fence
        )
        outcome = await execute(repository, request)
        self.turns.services.broadcast.send(loaded.thread_id, outcome.events)
        return outcome.loaded if outcome.events else None

    def may_be_answered(self, loaded: LoadedThread) -> bool:
        """Say whether a worker that is gone may have answered what is not in the log: with durability `async` only."""
        state = loaded.state
        return isinstance(state, Running) and state.turn.durability == "async" and not self.turns.runs(loaded.thread_id)

    async def store_answer(self, thread_id: ThreadId, *, strict: bool = False) -> bool:
        """Store what a worker that is gone had answered and not stored, if the thread is still as it was then.

        Otherwise a command has moved the thread since, and the turn goes on after that. Where the answer is held may
        be away: after a bounded wait, the log decides, and the turn runs again from its last durable event; if
        `strict`, this raises `StoreUnavailable` instead.
        """
        hot = self.turns.services.hot
        if hot is None:
            return False
        try:
            async with asyncio.timeout(HOT_TIMEOUT_S):
                held = await hot.get(thread_id)
        except (StoreUnavailable, TimeoutError) as error:
            if strict:
                raise StoreUnavailable from error
            _log.warning("It cannot be asked what was answered in %s, so the log decides: %r", thread_id, error)
            return False
        if held is None:
            return False
        with suppress(VersionConflict):
            await self.turns.services.repository.store.append(replace(held, fence=self.fence(thread_id)))
            _log.info("Stored what was answered in %s", thread_id)
        await hot.drop(thread_id)
        return True

    def _is_untouched(self, loaded: LoadedThread, begun: Recorded | None) -> bool:
        """Say whether a turn has just begun, under this worker's lease: then no other worker can have run it."""
        state = loaded.state
        if not isinstance(state, Running) or begun is None or begun.thread_id != loaded.thread_id:
            return False
        agent = self.turns.agents.get(state.thread.graph)
        return (
            _is_new(state.turn)
            and self.shards.is_later(loaded.thread_id, begun.position)
            and self.turns.crashed_turn(loaded.thread_id) != state.turn.turn_id
            and agent is not None
            and agent.graph.fingerprint == state.turn.graph
        )

    def _isolate(self, isolation: Isolation, thread_id: ThreadId, suspect: Suspect) -> None:
        task = asyncio.create_task(self._run_alone(isolation, thread_id, suspect), name=f"turn of {thread_id} alone")
        self._isolated[thread_id] = task
        task.add_done_callback(lambda done: self._cell_ended(thread_id, done))

    def _cell_ended(self, thread_id: ThreadId, task: asyncio.Task[None]) -> None:
        self._isolated.pop(thread_id, None)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("The turn of %s could not run alone, and is tried again: %r", thread_id, error)

    async def _run_alone(self, isolation: Isolation, thread_id: ThreadId, suspect: Suspect) -> None:
        """Run a suspect in a process of its own, until it has nothing to run or is convicted."""
        while self.may_run(thread_id):
            async with self._cells:
                if not self.may_run(thread_id):  # the lease was lost while others ran
                    return
                _log.warning("The turn of %s runs alone after %d crashes", thread_id, suspect.crashes + suspect.alone)
                convicted = suspect.version if suspect.convicted else None
                ended_well = await isolation.run(thread_id, self.fence(thread_id), convicted=convicted)
            if ended_well:
                await self.suspects.cleared(thread_id)
                self._suspected = {id_: other for id_, other in self._suspected.items() if id_ != thread_id}
                return
            suspect = await self._crashed_alone(thread_id)
            if suspect.alone > MAX_LONE_CRASHES:
                self._given_up.add(thread_id)
                _log.error(
                    "The turn of %s crashes every process, even one that is to fail it. It stays as it is until this "
                    "worker is restarted.",
                    thread_id,
                )
                return
            await asyncio.sleep(min(ISOLATION_PAUSE_S, self.shards.lease))

    async def _crashed_alone(self, thread_id: ThreadId) -> Suspect:
        """Count a lone crash, however long the store is away: it is known here only."""
        while True:
            try:
                return await self.suspects.crashed_alone(thread_id)
            except StoreUnavailable:
                await asyncio.sleep(ISOLATION_PAUSE_S)

    async def _lend(self, thread_id: ThreadId, tenant: Tenant, graph: str) -> None:
        """Lend a thread to a worker that knows its agent; wait for one if there is none."""
        knowing = [row.id for row in self._workers if graph in row.agents and row.id != self.shards.id]
        before = self._foreign.get(thread_id)
        worker = before.worker if before and before.worker in knowing else None  # a turn may run there
        if worker is None and knowing and self.shards.hold(thread_id):
            worker = knowing[slice_of(thread_id) % len(knowing)]
        self._foreign[thread_id] = _Foreign(graph, _now(), worker)
        if worker is not None:
            await self.loans.lend(Loan(thread_id, tenant, self.shards.fence(thread_id), worker))
            self.shards.wakeups.send(Lent(worker))
        elif graph not in self._missing:
            self._missing.add(graph)
            _log.warning("No worker knows the agent %r: its turns wait, such as that of %s", graph, thread_id)


def _is_new(turn: Turn) -> bool:
    fresh = (turn.step, turn.attempt, turn.run, turn.calls, turn.items) == (0, 1, 0, (), None)
    return fresh and not turn.cancelling


def _fence_of(loan: Loan | None) -> Fence | None:
    return loan.fence if loan else None


def _now() -> float:
    return asyncio.get_running_loop().time()
