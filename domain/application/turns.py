"""Running turns: node after node, each transition durable before the next begins."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from domain.agent import Agent
from domain.application.execute import Request, execute
from domain.application.journal import Loaded
from domain.application.signals import Withdrawn
from domain.application.work import Means, Work, cancelled_from_outside
from domain.chat import ModelError
from domain.codec import Metadata, to_json
from domain.commands import Command, CompactHistory, CompleteNode, FailAttempt, FailTurn
from domain.compaction import compacted, overflows
from domain.decide import check_facts
from domain.errors import NodeTimeout, StoreUnavailable, ThreadfoldError, TurnIsOver
from domain.events import NodeFact
from domain.evolve import fold
from domain.graph import Node
from domain.ids import ThreadId, TurnId
from domain.json import storable_text
from domain.state import Running, Turn

_log = logging.getLogger(__name__)

ERROR_LENGTH = 1_000


@dataclass
class Turns:
    """The turns that this process runs. Each is a task of the event loop; waiting for one is optional.

    `pause` is how many seconds a turn waits for a store that is away, before it goes on.
    """

    means: Means
    agents: Mapping[str, Agent]
    pause: float = 2.0
    _tasks: dict[ThreadId, tuple[TurnId, asyncio.Task[None]]] = field(default_factory=dict)
    _snapshots: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, loaded: Loaded, metadata: Metadata) -> None:
        """Run a thread's turn in the background, from the node in flight. Does nothing if it runs here already."""
        if not isinstance(loaded.state, Running):
            return
        thread_id, turn_id = loaded.thread_id, TurnId(loaded.state.turn.turn_id)
        if thread_id in self._tasks and self._tasks[thread_id][0] == turn_id:
            return
        # A turn before this one may still be on its way out: its end was stored before its task returns.
        task = asyncio.create_task(self._run_and_snapshot(loaded, metadata), name=f"turn {turn_id}")
        self._tasks[thread_id] = (turn_id, task)
        task.add_done_callback(lambda done: self._forget(thread_id, done))

    async def run(self, loaded: Loaded, metadata: Metadata) -> Loaded:
        """Run a turn to its end, or to where another process goes on with it; return the thread as it is then."""
        if not isinstance(loaded.state, Running):
            return loaded
        turn_id = loaded.state.turn.turn_id
        while isinstance(loaded.state, Running) and loaded.state.turn.turn_id == turn_id:
            try:
                loaded = await self._step(await self._make_room(loaded, metadata), metadata)
            except TurnIsOver:
                return await self.means.journal.load(loaded.thread_id, loaded.tenant)
            except StoreUnavailable:
                _log.warning("The turn of %s waits for the store", loaded.thread_id)
                await asyncio.sleep(self.pause)
                loaded = await self._load_when_there(loaded)
        return loaded

    async def wait(self, thread_id: ThreadId, turn_id: TurnId | None = None) -> None:
        """Wait until a turn of the thread, or none at all, runs in this process."""
        while (running := self._tasks.get(thread_id)) and turn_id in {None, running[0]}:
            await asyncio.wait([running[1]])
            await asyncio.sleep(0)

    def runs(self, thread_id: ThreadId) -> bool:
        """Say whether this process runs a turn of the thread."""
        return thread_id in self._tasks

    async def close(self, grace: float = 5.0) -> None:
        """Give running turns `grace` seconds to end. What is left goes on at the next start, at its node."""
        tasks = [task for _, task in self._tasks.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._snapshots, return_exceptions=True)

    async def _run_and_snapshot(self, loaded: Loaded, metadata: Metadata) -> None:
        """Run a turn, and have a snapshot written behind its back: nobody who waits for the turn waits for that."""
        done = await self.run(loaded, metadata)
        snapshot = asyncio.create_task(self.means.journal.checkpoint(done), name=f"snapshot of {done.thread_id}")
        self._snapshots.add(snapshot)
        snapshot.add_done_callback(self._snapshot_done)

    async def _load_when_there(self, loaded: Loaded) -> Loaded:
        while True:
            try:
                return await self.means.journal.load(loaded.thread_id, loaded.tenant)
            except StoreUnavailable:
                await asyncio.sleep(self.pause)

    async def _make_room(self, loaded: Loaded, metadata: Metadata) -> Loaded:
        """Compact the live window of a turn that begins, if it holds more than a prompt can: whatever the graph."""
        state, means = loaded.state, self.means
        if not isinstance(state, Running) or state.turn.step or state.turn.calls:
            return loaded
        if not overflows(state.thread.window, means.context_window):
            return loaded
        fact = compacted(state.thread, means.context_window, means.tokens.count)
        if fact is None:
            return loaded
        return await self._report(loaded, metadata, CompactHistory(TurnId(state.turn.turn_id), fact))

    async def _step(self, loaded: Loaded, metadata: Metadata) -> Loaded:
        """Try the node in flight once."""
        state = loaded.state
        if not isinstance(state, Running) or state.thread.graph not in self.agents:
            raise TurnIsOver
        turn_id, agent = TurnId(state.turn.turn_id), self.agents[state.thread.graph]
        node = agent.graph.by_name.get(state.turn.node)
        if node is None:
            detail = f"The graph {agent.name!r} has no node {state.turn.node!r} any more."
            return await self._report(loaded, metadata, FailTurn(turn_id, "graph_changed", detail))
        if state.turn.step >= agent.graph.step_limit:
            detail = f"The turn took {state.turn.step} steps, which is the graph's limit."
            return await self._report(loaded, metadata, FailTurn(turn_id, "step_limit", detail))
        return await self._attempt(Work(self.means, agent, loaded, metadata), node)

    async def _attempt(self, work: Work, node: Node) -> Loaded:
        started, turn = asyncio.get_running_loop().time(), work.state.turn
        limit = asyncio.timeout(node.timeout)
        try:
            async with limit:
                facts = tuple(await node.run(work))
            following = _next(work, node, facts)
        except (TurnIsOver, StoreUnavailable):
            raise
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            return await self._failed(work, node, turn, RuntimeError(f"cancelled itself: {error}"), _since(started))
        except Exception as error:  # noqa: BLE001  (a node is the user's code: whatever it raises is its failure)
            timed_out = isinstance(error, TimeoutError) and limit.expired()
            failure = NodeTimeout(f"did not end within {node.timeout:g} s") if timed_out else error
            return await self._failed(work, node, turn, failure, _since(started))
        report = CompleteNode(TurnId(turn.turn_id), turn.step, facts, following, _since(started))
        return await self._report(work.loaded, work.metadata, report)

    async def _failed(self, work: Work, node: Node, turn: Turn, error: Exception, duration_ms: int) -> Loaded:
        """Report a failed attempt, and wait until the next one is due."""
        unforeseen = None if isinstance(error, ThreadfoldError) else error  # then its place is worth knowing
        _log.warning("Node %s of %s failed: %r", node.name, work.thread_id, error, exc_info=unforeseen)
        self.means.signals.send(work.thread_id, (Withdrawn(),))
        delay = node.retry.delay_after(turn.attempt) if _worth_another(error) else None
        retry_in_ms = None if delay is None else int(delay * 1000)
        failure = FailAttempt(TurnId(turn.turn_id), turn.step, turn.attempt, _written(error), duration_ms, retry_in_ms)
        loaded = await self._report(work.loaded, work.metadata, failure)
        await asyncio.sleep(delay or 0)
        return loaded

    async def _report(self, loaded: Loaded, metadata: Metadata, command: Command) -> Loaded:
        """Store what happened. Raise `TurnIsOver` if that is no news: then somebody else runs this turn."""
        request = Request(loaded.thread_id, lambda _: (command,), metadata, loaded.tenant, known=loaded)
        outcome = await execute(self.means.journal, request)
        if not outcome.events:
            raise TurnIsOver
        self.means.signals.send(loaded.thread_id, outcome.events)
        return outcome.loaded

    def _forget(self, thread_id: ThreadId, task: asyncio.Task[None]) -> None:
        if self._tasks.get(thread_id, (None, None))[1] is task:
            del self._tasks[thread_id]
        if not task.cancelled() and (error := task.exception()):
            _log.error("The turn of %s stopped here and goes on later: %r", thread_id, error, exc_info=error)

    def _snapshot_done(self, task: asyncio.Task[None]) -> None:
        self._snapshots.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("No %s: %r. It would have saved time only.", task.get_name(), error)


def _next(work: Work, node: Node, facts: tuple[NodeFact, ...]) -> str:
    """Ask the graph where to go, given what the node says happened. Refuses facts that cannot be taken."""
    check_facts(facts, work.state)
    to_json(facts)
    after = fold(work.state, facts)
    if not isinstance(after, Running):
        raise TurnIsOver
    return work.agent.graph.after(node.name, after)


def _since(started: float) -> int:
    """Return the milliseconds since a time of the event loop's clock."""
    return int((asyncio.get_running_loop().time() - started) * 1000)


def _worth_another(error: Exception) -> bool:
    return error.transient if isinstance(error, ModelError) else True


def _written(error: Exception) -> str:
    return storable_text(f"{type(error).__name__}: {error}")[:ERROR_LENGTH]
