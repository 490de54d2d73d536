"""Running turns: node after node, each transition durable before the next begins."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec import Struct

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from domain.agents.graph import Node
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.node_context import NodeContext
from domain.application.turns.run import TurnRun, TurnServices
from domain.application.turns.token_counting import estimate_tokens
from domain.application.turns.user_code import (
    CLEANUP_TIMEOUT_S,
    Deadline,
    DeadlinePassed,
    contain_tasks,
    run_user_code,
    trace_of,
    where,
)
from domain.errors import (
    BudgetExhausted,
    LeaseLost,
    NodeTimeout,
    StoreUnavailable,
    ThreadfoldError,
    TurnIsOver,
    WaitsForPerson,
)
from domain.ids import ThreadId, TurnId, Version
from domain.json import storable_text
from domain.models.chat import ModelError, NoAnswer
from domain.ports.log import Fence
from domain.prompt.compaction import compacted, overflows
from domain.thread.codec import Metadata, Recorded, to_json
from domain.thread.commands import AskPerson, CompactHistory, CompleteNode, FailAttempt, FailTurn, Report, StopTurn
from domain.thread.events import NodeEvent, TurnStarted
from domain.thread.evolve import fold
from domain.thread.node_events import check_node_events, own_copy
from domain.thread.repeated_calls import complaint, most_repeated
from domain.thread.state import Running, Turn

_log = logging.getLogger(__name__)

CRASH_PAUSE_S = 1.0
"""Seconds before a turn is resumed whose run ended with an error here; then twice as many, and so on."""

LONGEST_CRASH_PAUSE_S = 60.0

SAVING = 2.0
"""Seconds that a turn which is abandoned may take to store what was kept back."""

LEAVING = CLEANUP_TIMEOUT_S + SAVING + 1.0
"""Seconds after which nothing waits any more for a turn that is abandoned."""


class CrashedTurn(Struct, frozen=True):
    """A turn whose task ended with an error that is not its nodes', so many `times` in this process.

    It is not resumed here before an instant of the event loop's clock.
    """

    turn_id: TurnId
    times: int
    not_before: float
    error: str


@dataclass
class TurnRunner:
    """The turns that this process runs. Each is a task of the event loop; waiting for one is optional.

    `pause` is how many seconds a turn waits for a store that is away, before it goes on. `fence` names the
    lease under which a thread's turn is run; whoever has leases sets it.
    """

    services: TurnServices
    agents: Mapping[str, Agent]
    pause: float = 2.0
    fence: Callable[[ThreadId], Fence | None] = lambda _: None
    crashed: dict[ThreadId, CrashedTurn] = field(default_factory=dict)
    """Turns whose task ended with an error: they are resumed after a pause, not begun."""
    _runs: dict[ThreadId, tuple[TurnRun, asyncio.Task[None]]] = field(default_factory=dict)
    _handing_over: bool = False
    _snapshots: set[asyncio.Task[None]] = field(default_factory=set)

    def open(self) -> None:
        """Run turns from now on, also after a `close`."""
        self._handing_over = False

    def start(self, loaded: LoadedThread, metadata: Metadata) -> None:
        """Run a thread's turn in the background, from the node in flight. Does nothing if it runs here already."""
        state, thread_id = loaded.state, loaded.thread_id
        if not isinstance(state, Running):
            return
        turn_id = TurnId(state.turn.turn_id)
        if thread_id in self._runs and self._runs[thread_id][0].turn_id == turn_id:
            return
        contain_tasks()
        # A turn before this one may still be on its way out: its end was stored before its task returns.
        run = TurnRun(self.services, loaded, metadata, self.fence)
        task = asyncio.create_task(self._run_all(run), name=f"turn {turn_id}")
        self._runs[thread_id] = (run, task)
        task.add_done_callback(lambda done: self._forget(thread_id, turn_id, done))

    async def run(self, loaded: LoadedThread, metadata: Metadata) -> LoadedThread:
        """Run a turn to its end, or to where it waits or another process goes on; return the thread as it is then."""
        if not isinstance(loaded.state, Running):
            return loaded
        contain_tasks()
        run = TurnRun(self.services, loaded, metadata, self.fence)
        try:
            await self._steps(run)
        finally:
            run.close()
        return run.loaded

    async def wait(self, thread_id: ThreadId, turn_id: TurnId | None = None) -> None:
        """Wait until a turn of the thread, or none at all, runs in this process."""
        while (running := self._runs.get(thread_id)) and turn_id in {None, running[0].turn_id}:
            await asyncio.wait([running[1]])
            await asyncio.sleep(0)

    def runs(self, thread_id: ThreadId) -> TurnId | None:
        """Name the turn of the thread that this process runs."""
        running = self._runs.get(thread_id)
        return running[0].turn_id if running else None

    async def settled(self, thread_id: ThreadId) -> None:
        """Wait until a turn that has given its answer here already is stored as well."""
        running = self._runs.get(thread_id)
        if running and running[0].answered.is_set():
            await self.wait(thread_id, running[0].turn_id)

    def answering(self, thread_id: ThreadId, turn_id: TurnId) -> TurnRun | None:
        """Return the run of a turn here that gives its answer before it is stored."""
        running = self._runs.get(thread_id)
        run = running[0] if running else None
        return run if run and run.turn_id == turn_id and run.durability == "async" else None

    def running(self) -> Mapping[ThreadId, Version]:
        """List the threads whose turns this process runs, with the version that each was seen at."""
        return {thread_id: run.loaded.head.version for thread_id, (run, _) in self._runs.items()}

    async def look(self, thread_id: ThreadId) -> None:
        """Stop the thread's turn, if it runs here, where somebody asks for that."""
        if running := self._runs.get(thread_id):
            run = running[0]
            state = (await self.services.repository.load(thread_id, run.loaded.tenant)).state
            if isinstance(state, Running) and state.turn.turn_id == run.turn_id and state.turn.cancelling:
                run.stop()

    async def abandon(self, thread_id: ThreadId) -> None:
        """Stop running a thread's turn, wherever it is: another process goes on with it.

        The code that runs has some seconds to end; after `LEAVING` seconds at most, this returns in any case.
        """
        if running := self._runs.get(thread_id):
            await self._leave({thread_id: running})

    async def close(self, grace: float = 5.0, *, hand_over: bool = False) -> None:
        """Give running turns `grace` seconds to end, or, to be handed over, to end their nodes.

        What is left goes on elsewhere or later, at its node. `LEAVING` seconds later, this returns in any case.
        """
        self._handing_over = hand_over
        running = dict(self._runs)
        if running:
            await asyncio.wait([task for _, task in running.values()], timeout=grace)
        await self._leave(running)
        if self._snapshots:
            _, pending = await asyncio.wait(self._snapshots, timeout=SAVING)
            for task in pending:
                task.cancel()

    async def _leave(self, running: Mapping[ThreadId, tuple[TurnRun, asyncio.Task[None]]]) -> None:
        """Cancel turns, and wait a limited time for their ends."""
        tasks = [task for _, task in running.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=LEAVING)
        for thread_id, (run, task) in running.items():
            if task in pending:
                _log.error("The turn of %s does not end, and is left alone at %s", thread_id, where(task))
                run.close()
                if self._runs.get(thread_id) == (run, task):
                    del self._runs[thread_id]

    async def _run_all(self, run: TurnRun) -> None:
        """Run a turn, and then those that waited for its end."""
        thread_id = run.thread_id
        while True:
            try:
                ours = await self._steps(run)
            except asyncio.CancelledError:
                with suppress(Exception):  # then what was kept back is lost, as with a crash
                    async with asyncio.timeout(SAVING):
                        await run.note_calls()
                        await run.save()
                raise
            finally:
                run.close()
            self._snapshot(run.loaded)
            state = run.loaded.state
            if not ours or not isinstance(state, Running) or state.turn.turn_id == run.turn_id:
                return
            run = TurnRun(
                self.services, run.loaded, await causing_command(self.services.repository, run.loaded), self.fence
            )
            self._runs[thread_id] = (run, self._runs[thread_id][1])

    def _snapshot(self, loaded: LoadedThread) -> None:
        """Have a snapshot written behind the turn's back: nobody who waits for the turn waits for that."""
        if not self.services.repository.is_due(loaded):
            return
        snapshot = asyncio.create_task(
            self.services.repository.checkpoint(loaded), name=f"snapshot of {loaded.thread_id}"
        )
        self._snapshots.add(snapshot)
        snapshot.add_done_callback(self._snapshot_done)

    async def _steps(self, run: TurnRun) -> bool:
        """Run a turn to its end, or to where it waits for a person. False: another process has it now."""
        while (turn := run.turn) and not turn.waits:
            if self._handing_over:
                await run.save()
                return False
            try:
                if turn.cancelling:
                    await self._report(run, StopTurn(run.turn_id, None, 0, run.number))
                else:
                    await self._make_room(run)
                    await self._step(run)
            except WaitsForPerson:
                await run.note_calls()
                await self._refresh(run)  # the answer may be there already
            except (TurnIsOver, LeaseLost):
                await self._reload(run)
                return False
            except StoreUnavailable:
                _log.warning("The turn of %s waits for the store", run.thread_id)
                await asyncio.sleep(self.pause)
                await self._refresh(run)
        return True

    async def _reload(self, run: TurnRun) -> None:
        """Drop what was kept back, and read what another worker has made of the turn."""
        run.forget()
        await self._refresh(run)

    async def _refresh(self, run: TurnRun) -> None:
        """Read what others have written, however long the store is away."""
        while True:
            try:
                return await run.refresh()
            except StoreUnavailable:
                await asyncio.sleep(self.pause)

    async def _make_room(self, run: TurnRun) -> None:
        """Compact the live window of a turn that begins, if it holds more than a prompt can: whatever the graph."""
        state, services = run.loaded.state, self.services
        if not isinstance(state, Running) or state.turn.step or state.turn.calls:
            return
        if not overflows(state.thread.window, services.context_window):
            return
        fact = compacted(state.thread, services.context_window, services.tokens.count)
        if fact is not None:
            await self._report(run, CompactHistory(run.turn_id, fact, run.number))

    async def _step(self, run: TurnRun) -> None:
        """Try the node in flight once."""
        state, turn = run.loaded.state, run.turn
        if not isinstance(state, Running) or turn is None or state.thread.graph not in self.agents:
            raise TurnIsOver
        agent = self.agents[state.thread.graph]
        node = agent.graph.by_name.get(turn.node)
        if node is None:
            detail = f"The graph {agent.name!r} has no node {turn.node!r} any more."
            await self._report(run, FailTurn(run.turn_id, "graph_changed", detail, run.number))
        elif turn.step >= agent.graph.step_limit:
            detail = (
                f"The turn took {turn.step} steps, which is the limit of the graph {agent.name!r}. A retry goes on; "
                "raise step_limit where the agent is defined if its turns need more."
            )
            await self._report(run, FailTurn(run.turn_id, "step_limit", detail, run.number))
        elif agent.graph.repeat_limit is not None and most_repeated(turn.repeats) >= agent.graph.repeat_limit:
            tools = (message.name or "" for message in reversed(state.thread.window) if message.role == "tool")
            detail = complaint(turn.repeats, next(tools, ""))
            await self._report(run, FailTurn(run.turn_id, "repeated_calls", detail, run.number))
        elif node.approval and turn.approval is None:
            await self._report(run, AskPerson(run.turn_id, run=run.number))
        else:
            work = NodeContext(run, agent)
            try:
                report = await self._attempt(work, node, turn)
            finally:
                work.close()
            if isinstance(report, StopTurn):  # who asked for that may not be known here yet
                await self._refresh(run)
            await self._report_attempt(run, report, turn)
            if isinstance(report, FailAttempt) and report.retry_in_ms:
                await run.pause(report.retry_in_ms / 1000)

    async def _attempt(self, work: NodeContext, node: Node, turn: Turn) -> Report:
        """Try a node, and make the report of what came of it."""
        run, started = work.run, asyncio.get_running_loop().time()
        deadline = Deadline(node.timeout)
        try:
            with run.interruptible(deadline):
                name = f"node {node.name!r} of {run.place}"
                facts, following = await run_user_code(lambda: _facts_of(work, node), name, deadline)
        except (TurnIsOver, LeaseLost, WaitsForPerson):
            raise
        except BudgetExhausted as error:
            return FailTurn(run.turn_id, "budget_exhausted", str(error), run.number)
        except DeadlinePassed:
            if run.stopping:
                return self._stopped(work)
            late = NodeTimeout(f"did not end within {node.timeout:g} s")
            return self._failed(work, node, turn, late, _since(started))
        except Exception as error:  # noqa: BLE001  (a node is the user's code: whatever it raises is its failure)
            return self._failed(work, node, turn, error, _since(started))
        return CompleteNode(run.turn_id, turn.step, facts, following, _since(started), run.number)

    def _stopped(self, work: NodeContext) -> Report:
        """End a turn that was asked to end, keeping what the model had written."""
        partial = storable_text(work.written)
        return StopTurn(work.run.turn_id, partial, estimate_tokens(self.services.tokens, partial), work.run.number)

    def _failed(self, work: NodeContext, node: Node, turn: Turn, error: Exception, duration_ms: int) -> Report:
        """Report a failed attempt, and when the next one is due."""
        run = work.run
        place = "" if isinstance(error, ThreadfoldError) else f"\n{trace_of(error)}"
        _log.warning("Node %s of %s failed: %s%s", node.name, run.thread_id, error_text(error), place)
        self.services.broadcast.retract(run.thread_id, run.durable_version)
        delay = node.retry.delay_after(turn.attempt) if _worth_another(error) else None
        retry_in_ms = None if delay is None else int(delay * 1000)
        text, reason = error_text(error), error.reason if isinstance(error, NoAnswer) else "node_failed"
        return FailAttempt(
            run.turn_id, turn.step, turn.attempt, text, duration_ms, retry_in_ms, run.number, reason=reason
        )

    async def _report(self, run: TurnRun, command: Report) -> None:
        """Store what happened. Raise `TurnIsOver` if that is no news: then another worker runs this turn."""
        if not await run.report(command, durable=False):
            raise TurnIsOver

    async def _report_attempt(self, run: TurnRun, report: Report, turn: Turn) -> None:
        """Store what came of an attempt. If the log cannot take it, the attempt has failed, and is not made again."""
        try:
            await self._report(run, report)
        except (TurnIsOver, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001  (a defect, or an event that no store takes)
            _log.exception("What node %s of %s has done cannot be stored", turn.node, run.thread_id)
            run.take_back()
            await self._refresh(run)
            text = f"What the node has done cannot be stored: {error_text(error)}"
            await self._report(run, FailAttempt(run.turn_id, turn.step, turn.attempt, text, 0, None, run.number))

    def _forget(self, thread_id: ThreadId, turn_id: TurnId, task: asyncio.Task[None]) -> None:
        if (running := self._runs.get(thread_id)) and running[1] is task:
            del self._runs[thread_id]
        error = None if task.cancelled() else task.exception()
        if error is None:
            self.crashed.pop(thread_id, None)
            return
        before = self.crashed.get(thread_id)
        times = before.times + 1 if before and before.turn_id == turn_id else 1
        pause = min(CRASH_PAUSE_S * 2 ** (times - 1), LONGEST_CRASH_PAUSE_S)
        self.crashed[thread_id] = CrashedTurn(
            turn_id, times, asyncio.get_running_loop().time() + pause, error_text(error)
        )
        _log.error("The turn of %s stopped here and goes on in %g s: %r", thread_id, pause, error, exc_info=error)

    def crashed_turn(self, thread_id: ThreadId) -> TurnId | None:
        """Name the turn of the thread whose task ended with an error here."""
        crashed = self.crashed.get(thread_id)
        return crashed.turn_id if crashed else None

    def _snapshot_done(self, task: asyncio.Task[None]) -> None:
        self._snapshots.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("No %s: %r. It would have saved time only.", task.get_name(), error)


async def causing_command(repository: ThreadRepository, loaded: LoadedThread) -> Metadata:
    """Find the command that caused the running turn, so that all that the agent does still names it as its cause."""
    return await causing_command_of(repository, await beginning(repository, loaded))


async def beginning(repository: ThreadRepository, loaded: LoadedThread) -> Recorded:
    """Return the event that the running turn began with; of a fork, it may be the parent's."""
    state = loaded.state
    if not isinstance(state, Running):
        raise TurnIsOver
    return await _event(repository, loaded.thread_id, state.turn.started)


async def causing_command_of(repository: ThreadRepository, begun: Recorded) -> Metadata:
    """Find the command that caused a turn by the event that it began with."""
    if isinstance(begun.event, TurnStarted) and begun.event.queued:
        begun = await _event(repository, begun.thread_id, Version(begun.event.queued))
    return caused_by(begun.metadata)


async def first_event(repository: ThreadRepository, thread_id: ThreadId) -> Recorded:
    """Return the first event of the thread's own: of a fork, the one that says so."""
    origin = await repository.origin(thread_id)
    return await _event(repository, thread_id, Version(origin.version + 1 if origin else 1))


async def _event(repository: ThreadRepository, thread_id: ThreadId, version: Version) -> Recorded:
    return (await repository.history(thread_id, Version(version - 1), version))[0]


def caused_by(metadata: Metadata) -> Metadata:
    """Describe what the agent does because of a command."""
    return Metadata(causation=metadata.command or metadata.causation, correlation=metadata.correlation)


async def _facts_of(work: NodeContext, node: Node) -> tuple[tuple[NodeEvent, ...], str]:
    """Run a node, and ask the graph where to go, given what it says happened. Refuses facts that cannot be taken."""
    facts = tuple(own_copy(fact) for fact in await node.run(work))
    check_node_events(facts, work.state)
    to_json(facts)
    after = fold(work.state, facts) if work.agent.graph.chooses(node.name) else work.state
    if not isinstance(after, Running):
        raise TurnIsOver
    return facts, work.agent.graph.after(node.name, after)


def _since(started: float) -> int:
    """Return the milliseconds since a time of the event loop's clock."""
    return int((asyncio.get_running_loop().time() - started) * 1000)


def _worth_another(error: Exception) -> bool:
    return error.transient if isinstance(error, ModelError) else True
