"""Taking up the turns of threads that this worker may run: beginning, resuming, isolating, or lending them.

A turn that another worker has left is resumed at its current node. The event that resumes it carries a new run number,
a fencing token: reports of the former worker are ignored. A turn that may have crashed its process runs in a process of
its own. A turn of an agent, of a version or at a node that this process does not have is lent to a worker that has it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from domain.agents.graph import alias_advice
from domain.agents.registry import graph_key
from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread
from domain.application.turns.lending import Lending
from domain.application.turns.lone_turns import LoneTurns
from domain.application.turns.runner import CrashedTurn, TurnRunner
from domain.application.turns.shard_leases import Shards
from domain.application.turns.turn_cause import beginning, causing_command, causing_command_of, first_event
from domain.errors import LeaseLost, StoreUnavailable, VersionConflict
from domain.ids import Shard, Tenant, ThreadId, TurnId, Version, shard_of, slice_of
from domain.ports.hot import HOT_TIMEOUT_S
from domain.ports.isolation import Isolation
from domain.ports.loans import Loan, Loans
from domain.ports.suspects import Suspects
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import FailTurn, ResumeTurn
from domain.thread.state import Running, Turn

Spawn: TypeAlias = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]

_log = logging.getLogger(__name__)

MAX_CONCURRENT_LOADS = 50
"""Threads that are loaded at the same time when the log is searched for turns to take up."""

BROKEN_RETRY_S = 60.0
"""Seconds before a thread is tried again that could not be taken up because of an error."""

MAX_CRASHES_HERE = 5
"""How often a turn's task may fail, with an error that its nodes did not raise, before the turn fails."""


@dataclass
class TakeUp:
    """Takes up turns. `spawn` runs a coroutine in a task that the worker looks after."""

    turns: TurnRunner
    shards: Shards
    suspects: InitVar[Suspects]
    loans: InitVar[Loans]
    isolation: InitVar[Isolation | None]
    spawn: Spawn
    lending: Lending = field(init=False)
    lone: LoneTurns = field(init=False)
    _reviewed: Mapping[Shard, int] = field(init=False, default_factory=dict)
    """The epochs of the shards whose suspects are known."""
    _taking: set[ThreadId] = field(init=False, default_factory=set)
    _finding: set[ThreadId] = field(init=False, default_factory=set)
    _loads: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(MAX_CONCURRENT_LOADS))
    _broken: dict[ThreadId, float] = field(init=False, default_factory=dict)
    """Threads that could not be taken up, such as unreadable ones, and the time of the next attempt."""
    _logged: set[tuple[str, ...]] = field(init=False, default_factory=set)
    """Agents that no worker knew, and nodes that no process had, when a turn was found there. Each is logged once."""

    def __post_init__(self, suspects: Suspects, loans: Loans, isolation: Isolation | None) -> None:
        """Create the parts."""
        self.lending = Lending(self.shards, loans)
        self.lone = LoneTurns(suspects, isolation, self.lending.fence, self.may_run, self.shards.lease)

    def may_run(self, thread_id: ThreadId) -> bool:
        """Say whether this worker may begin to run a turn of the thread: not before it knows the shard's suspects."""
        if self.shards.hold(thread_id):
            return self._reviewed.get(shard_of(slice_of(thread_id))) == self.shards.fence(thread_id).epoch
        return thread_id in self.lending.borrowed and self.shards.valid

    def shards_reviewed(self) -> Sequence[Shard]:
        """Return the shards that this worker holds and whose suspects it knows."""
        epochs = self.shards.epochs()
        return [shard for shard, epoch in self._reviewed.items() if epochs.get(shard) == epoch]

    def running(self) -> Collection[ThreadId]:
        """Return the threads whose turns run here, or for this worker in processes of their own."""
        return {*self.turns.running(), *self.lone.running}

    def begin_now(self, loaded: LoadedThread, metadata: Metadata, begun: Recorded | None) -> bool:
        """Begin a turn without loading it, if no other worker can have run it. `begun` is its first event."""
        thread_id = loaded.thread_id
        if thread_id in self.lone.suspected or thread_id in self.lone.running or not self._is_untouched(loaded, begun):
            return False
        self.turns.start(loaded, metadata)
        return True

    async def refresh(self) -> None:
        """Read which workers are alive, which turns are suspects, and what is lent to this worker."""
        lent = await self.lending.refresh()
        epochs = self.shards.epochs()
        await self.lone.refresh(epochs.keys(), lent)
        self._reviewed = epochs
        await self._borrow(lent)
        self.lending.review()

    async def _borrow(self, lent: Mapping[ThreadId, Loan]) -> None:
        """Run what is lent to this worker, stop what is no longer lent, and give back what has nothing to run."""
        for thread_id in self.lending.borrow(lent):
            if not self.shards.hold(thread_id):
                self.spawn(self._abandon_one(thread_id))
        for thread_id, loan in lent.items():
            if thread_id in self.running() or thread_id in self._taking:
                continue
            if loan.runnable and thread_id not in self._finding:
                self.spawn(self.find(thread_id, loan.tenant))
            elif not loan.runnable:
                await self.lending.give_back(thread_id)

    def is_wanted(self, thread_id: ThreadId) -> bool:
        """Say whether a thread that has something to run is to be taken up, because nothing of it runs yet."""
        if thread_id in self.running() or thread_id in self.lone.given_up or thread_id in self._finding:
            return False
        if _now() < self._broken.get(thread_id, 0.0):
            return False
        self._broken.pop(thread_id, None)
        return self.lending.is_due(thread_id)

    async def find(self, thread_id: ThreadId, tenant: Tenant) -> None:
        """Take up a thread that has something to run, by the log."""
        self._finding.add(thread_id)
        try:
            if (agent := self.lending.foreign_agent(thread_id)) is not None:
                await self._lend_unknown(thread_id, tenant, agent)
                return
            async with self._loads:
                await self.take(thread_id, tenant)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception:
            self._broken[thread_id] = _now() + BROKEN_RETRY_S
            raise
        finally:
            self._finding.discard(thread_id)

    async def take(self, thread_id: ThreadId, tenant: Tenant) -> None:
        """Run a thread's turn if there is something to run. Stop it if it runs here and is to be cancelled.

        Raises `LeaseLost`: another worker has the shard.
        """
        await self.turns.stop_if_cancelled(thread_id)
        if thread_id in self._taking or thread_id in self.lone.running:
            return
        self._taking.add(thread_id)
        try:
            await self.turns.wait(thread_id)
            if self.may_run(thread_id):
                await self._take(thread_id, tenant)
        finally:
            self._taking.discard(thread_id)

    async def abandon(self, shards: Collection[Shard]) -> None:
        """Stop running the turns of some shards: another worker continues them."""
        borrowed = self.lending.borrowed
        threads = [id_ for id_ in self.running() if shard_of(slice_of(id_)) in shards and id_ not in borrowed]
        await asyncio.gather(*[self._abandon_one(thread_id) for thread_id in threads])

    async def close(self) -> None:
        """Hand over what runs in processes of its own."""
        await asyncio.gather(*[self.lone.stop(thread_id) for thread_id in list(self.lone.running)])

    async def _abandon_one(self, thread_id: ThreadId) -> None:
        await self.lone.stop(thread_id)
        await self.turns.abandon(thread_id)

    async def _take(self, thread_id: ThreadId, tenant: Tenant) -> None:
        if self.lone.has_to_run_alone(thread_id) and self.turns.runs(thread_id) is None:
            self.lone.start(thread_id)
            return
        repository = self.turns.services.repository
        loaded = await repository.load(thread_id, tenant)
        if self.may_be_answered(loaded) and await self.store_answer(thread_id):
            loaded = await repository.load(thread_id, tenant)
        state = loaded.state
        if not isinstance(state, Running) or state.turn.waits or self.turns.runs(thread_id):
            return
        if not await self._can_run(loaded, state):
            return
        begun = await beginning(repository, loaded)
        metadata = await causing_command_of(repository, begun)
        if begun.thread_id != thread_id:  # a fork's turn began in its parent; the fork's own events begin here
            begun = await first_event(repository, thread_id)
        crashed = self.turns.crashed.get(thread_id)
        if self._is_untouched(loaded, begun):
            self.turns.start(loaded, metadata)
        elif crashed and crashed.turn_id == state.turn.turn_id:
            await self._after_crash_here(loaded, metadata, crashed)
        else:
            await self._resume(loaded, metadata)

    async def _can_run(self, loaded: LoadedThread, state: Running) -> bool:
        """Say whether this process can run a turn. Otherwise lend it to a worker that can; without one, it waits.

        This process needs the agent, and the node in flight. If it lacks the node and no work would be lost, it fails
        the turn. If it lacks the version that the turn began with, another worker may have it; without one, this
        process continues the turn with its current version.
        """
        thread_id, name, turn = loaded.thread_id, state.thread.graph, state.turn
        agent = self.turns.known.running(state)
        if agent is None:
            await self._lend_unknown(thread_id, loaded.tenant, name)
            return False
        has_node = agent.graph.find(turn.node) is not None
        if turn.cancelling or (has_node and agent.version == turn.agent_version):
            return True
        need = graph_key(name, turn.agent_version, turn.graph)
        if (has_node or not turn.has_open_work) and not self.lending.can_lend(need):
            return True
        if not await self.lending.lend(thread_id, loaded.tenant, need, of_turn=True):
            self._log_once((name, turn.agent_version, turn.node), logging.ERROR, _left_alone(loaded, turn.node, name))
        return False

    async def _lend_unknown(self, thread_id: ThreadId, tenant: Tenant, agent: str) -> None:
        self._logged -= {(known,) for known in self.lending.announced()}
        if not await self.lending.lend(thread_id, tenant, agent):
            text = f"No worker knows the agent {agent!r}: its turns wait, such as that of {thread_id}"
            self._log_once((agent,), logging.WARNING, text)

    def _log_once(self, reason: tuple[str, ...], level: int, text: str) -> None:
        if reason not in self._logged:
            self._logged.add(reason)
            _log.log(level, "%s", text)

    async def _resume(self, loaded: LoadedThread, metadata: Metadata) -> None:
        """Take over a turn that another worker has left. Does nothing if a third one was faster, or it has ended."""
        state = loaded.state
        if not isinstance(state, Running):
            return
        agent, turn = self.turns.known.running(state), state.turn
        if agent is None:
            return
        command = ResumeTurn(TurnId(turn.turn_id), turn.run, self.shards.name, agent.graph.fingerprint)
        resumed = await self._report(loaded, metadata, command)
        if resumed is None:
            return
        _log.info("Resuming the turn of %s at node %s", loaded.thread_id, turn.node)
        if self.may_run(loaded.thread_id) and isinstance(resumed.state, Running):
            self.turns.start(resumed, metadata)

    async def _after_crash_here(self, loaded: LoadedThread, metadata: Metadata, crashed: CrashedTurn) -> None:
        """Resume a turn whose task failed, after a growing pause; fail the turn after too many failures.

        No other turn can be the reason: the error came out of this turn's own task.
        """
        if _now() < crashed.not_before:
            return
        if crashed.times <= MAX_CRASHES_HERE:
            await self._resume(loaded, metadata)
            return
        detail = f"Its run ended with an error {crashed.times} times, the last time with {crashed.error}"
        await self._fail(loaded, metadata, detail)

    async def convict(self, thread_id: ThreadId, tenant: Tenant, upto: Version) -> None:
        """Fail the thread's running turn if it began at a version or before.

        Each process that ran it crashed, even the last ones, which ran nothing else.
        """
        repository = self.turns.services.repository
        loaded = await repository.load(thread_id, tenant)
        if isinstance(loaded.state, Running) and loaded.state.turn.started <= upto:
            metadata = await causing_command(repository, loaded)
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
        """Store a report on a turn that does not run here. Returns None if it changes nothing."""
        fence = self.lending.fence(loaded.thread_id)
        request = CommandRequest(
            loaded.thread_id, lambda _: (command,), metadata, loaded.tenant, known=loaded, fence=fence
        )
        result = await execute(self.turns.services.repository, request)
        self.turns.services.broadcast.send(loaded.thread_id, result.events)
        return result.loaded if result.events else None

    def may_be_answered(self, loaded: LoadedThread) -> bool:
        """Say whether a worker may have answered and died before the log had the answer: only with `async`."""
        state = loaded.state
        return isinstance(state, Running) and state.turn.durability == "async" and not self.turns.runs(loaded.thread_id)

    async def store_answer(self, thread_id: ThreadId, *, strict: bool = False) -> bool:
        """Store an answer that a worker gave and did not store, if the thread has not moved on since.

        If it has moved on, the turn continues after that. The store that holds such answers may be unavailable. Then,
        after a bounded wait, the log decides, and the turn runs again from its last durable event; with `strict`, this
        raises `StoreUnavailable` instead.
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
            _log.warning("The store of answers cannot be read for %s, so the log decides: %r", thread_id, error)
            return False
        if held is None:
            return False
        with suppress(VersionConflict):
            append = replace(held, fence=self.lending.fence(thread_id))
            await self.turns.services.repository.store.append(append)
            _log.info("Stored the answer in %s that another worker gave", thread_id)
        await hot.drop(thread_id)
        return True

    def _is_untouched(self, loaded: LoadedThread, begun: Recorded | None) -> bool:
        """Say whether a turn has just begun, under this worker's lease: then no other worker can have run it."""
        state = loaded.state
        if not isinstance(state, Running) or begun is None or begun.thread_id != loaded.thread_id:
            return False
        agent, crashed = self.turns.known.running(state), self.turns.crashed.get(loaded.thread_id)
        return (
            _is_new(state.turn)
            and self.shards.is_later(loaded.thread_id, begun.position)
            and (crashed is None or crashed.turn_id != state.turn.turn_id)
            and agent is not None
            and (agent.version, agent.graph.fingerprint) == (state.turn.agent_version, state.turn.graph)
        )


def _left_alone(loaded: LoadedThread, node: str, agent: str) -> str:
    """Say why a turn is left as it is, and what to do."""
    return (
        f"The turn of {loaded.thread_id} stands at the node {node!r}, which the agent {agent!r} of this process does "
        "not have. It has open calls, items or approvals, so it is left as it is until a process has the node. "
        f"{alias_advice(node)}"
    )


def _is_new(turn: Turn) -> bool:
    fresh = (turn.step, turn.attempt, turn.run, turn.calls, turn.items) == (0, 1, 0, (), None)
    return fresh and not turn.cancelling


def _now() -> float:
    return asyncio.get_running_loop().time()
