"""Running turns: node after node, each transition durable before the next begins."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from domain.agent import Agent
from domain.application.execute import Outcome, Request, execute
from domain.application.journal import Loaded
from domain.application.signals import Withdrawn
from domain.application.work import Means, Work
from domain.chat import ModelError
from domain.codec import Metadata
from domain.commands import Command, CompleteNode, FailAttempt, FailTurn
from domain.decide import check_facts
from domain.errors import NodeTimeout, StoreUnavailable, TurnIsOver
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
    """The turns that this process runs. Each is a task of the event loop; waiting for one is optional."""

    means: Means
    agents: Mapping[str, Agent]
    _tasks: dict[ThreadId, asyncio.Task[Loaded]] = field(default_factory=dict)

    def start(self, loaded: Loaded, metadata: Metadata) -> None:
        """Run a thread's turn in the background, from the node in flight. Does nothing if it runs here already."""
        if loaded.thread_id in self._tasks:
            return
        task = asyncio.create_task(self.run(loaded, metadata), name=f"turn of {loaded.thread_id}")
        self._tasks[loaded.thread_id] = task
        task.add_done_callback(lambda done: self._forget(loaded.thread_id, done))

    async def run(self, loaded: Loaded, metadata: Metadata) -> Loaded:
        """Run a turn to its end and return the thread as it is then."""
        try:
            while isinstance(loaded.state, Running):
                loaded = await self._step(loaded, loaded.state, metadata)
        except TurnIsOver:
            loaded = await self.means.journal.load(loaded.thread_id, loaded.tenant)
        return await self.means.journal.checkpoint(loaded)

    async def wait(self, thread_id: ThreadId) -> None:
        """Wait until no turn of the thread runs in this process."""
        if task := self._tasks.get(thread_id):
            await asyncio.wait([task])

    def runs(self, thread_id: ThreadId) -> bool:
        """Say whether this process runs a turn of the thread."""
        return thread_id in self._tasks

    async def close(self, grace: float = 5.0) -> None:
        """Give running turns `grace` seconds to end. What is left goes on at the next start, at its node."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace)
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _step(self, loaded: Loaded, state: Running, metadata: Metadata) -> Loaded:
        """Try the node in flight once."""
        turn_id = TurnId(state.turn.turn_id)
        agent = self.agents.get(state.thread.graph)
        node = agent.graph.by_name.get(state.turn.node) if agent else None
        if agent is None or node is None:
            detail = f"The graph {state.thread.graph!r} has no node {state.turn.node!r} any more."
            return (await self._report(loaded, metadata, FailTurn(turn_id, "graph_changed", detail))).loaded
        if state.turn.step >= agent.graph.step_limit:
            detail = f"The turn took {state.turn.step} steps, which is the graph's limit."
            return (await self._report(loaded, metadata, FailTurn(turn_id, "step_limit", detail))).loaded
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
        except Exception as error:  # noqa: BLE001  (a node is the user's code: whatever it raises is its failure)
            timed_out = isinstance(error, TimeoutError) and limit.expired()
            failure = NodeTimeout(f"did not end within {node.timeout:g} s") if timed_out else error
            return await self._failed(work, node, turn, failure, _since(started))
        report = CompleteNode(TurnId(turn.turn_id), turn.step, facts, following, _since(started))
        return (await self._report(work.loaded, work.metadata, report)).loaded

    async def _failed(self, work: Work, node: Node, turn: Turn, error: Exception, duration_ms: int) -> Loaded:
        """Report a failed attempt, and wait until the next one is due."""
        _log.warning("Node %s of %s failed: %r", node.name, work.thread_id, error)
        self.means.signals.send(work.thread_id, (Withdrawn(),))
        delay = node.retry.delay_after(turn.attempt) if _worth_another(error) else None
        retry_in_ms = None if delay is None else int(delay * 1000)
        failure = FailAttempt(TurnId(turn.turn_id), turn.step, turn.attempt, _written(error), duration_ms, retry_in_ms)
        done = await self._report(work.loaded, work.metadata, failure)
        await asyncio.sleep(delay or 0)
        return done.loaded

    async def _report(self, loaded: Loaded, metadata: Metadata, command: Command) -> Outcome:
        request = Request(loaded.thread_id, lambda _: (command,), metadata, loaded.tenant, known=loaded)
        outcome = await execute(self.means.journal, request)
        self.means.signals.send(loaded.thread_id, outcome.events)
        return outcome

    def _forget(self, thread_id: ThreadId, task: asyncio.Task[Loaded]) -> None:
        del self._tasks[thread_id]
        if not task.cancelled() and (error := task.exception()):
            _log.error("The turn of %s stopped here and goes on later: %r", thread_id, error, exc_info=error)


def _next(work: Work, node: Node, facts: tuple[NodeFact, ...]) -> str:
    """Ask the graph where to go, given what the node says happened. Refuses facts that cannot be taken."""
    check_facts(facts, work.state)
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
