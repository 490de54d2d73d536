"""The API's commands and queries, for its routes and for the command line."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct

from api.http.caller import Caller
from api.http.send_buffer import SendBuffer
from api.runtime.composition import Runtime
from api.schemas.about import WorkerView
from api.schemas.approvals import waiting_approvals
from api.schemas.budget import BudgetView, budget_view
from api.schemas.requests import Decide, ForkThread, limit_of
from api.schemas.turns import TurnView, turn_view
from api.schemas.view import view_of
from api.services.access_log import AccessLogService
from api.services.history import NOW, PointInTime, ThreadHistory
from api.services.identity import IdentityService
from api.services.projection_admin import ProjectionAdmin
from api.services.read_models import ReadModelQueries
from api.services.replays import Replays
from api.services.tenant_limits import TenantLimits
from api.services.verification import Verification
from domain.agents.agent import Agent
from domain.agents.json_schema import check_schema, check_text_answer
from domain.agents.output import TEXT, Output
from domain.agents.requested_output import final_output
from domain.application.command_handler import (
    CommandRequest,
    CommandResult,
    IdempotencyKey,
    Plan,
    execute,
    idempotency_key,
)
from domain.application.fork import Fork, fork
from domain.application.queries.transcript import Transcript
from domain.application.thread_repository import LoadedThread
from domain.application.turns.check_input import check_change, check_decision, opening_values
from domain.application.turns.token_counting import count_tokens
from domain.application.turns.turn_cause import caused_by
from domain.application.turns.wait import TurnWaiter
from domain.errors import UnknownApproval, UnknownGraph, UnknownThread, VersionConflict, WrongGraph
from domain.ids import START, CommandId, ThreadId, TurnId, Version
from domain.models.chat import OutputFormat
from domain.thread import commands, events
from domain.thread.codec import Metadata
from domain.thread.decide import check_opened_with
from domain.thread.events import Durability, Limit, Strategy
from domain.thread.questions import open_question
from domain.thread.state import Running, State, Unopened
from domain.thread.subject import check_subject

KEYED_THREADS = UUID("5f0a8ad5-6d55-4a0e-8f0c-0d3a5e1f7a11")
"""The namespace of the ids of threads that are opened with an idempotency key and no id: a repeated command finds the
same thread."""

WAIT_LIMIT_S = 600.0
"""Seconds that a request with `wait` waits for its turn before it is answered like one without."""

RUNNABLE = (
    events.TurnStarted,
    events.CancellationRequested,
    events.ApprovalGranted,
    events.ApprovalDenied,
    events.QuestionAnswered,
    events.ThreadForked,
)
"""Events after which a worker has something to run."""


class Opening(Struct, frozen=True):
    """What a client gives to open a thread with, besides its agent. None: it was not given."""

    values: dict[str, object] | None = None
    subject: str | None = None
    limits: tuple[Limit, ...] | None = None

    @property
    def given(self) -> tuple[object, ...]:
        """What identifies a repeated command that opens a thread; as before there were limits, if there are none."""
        limits = tuple(map(msgspec.structs.astuple, self.limits or ()))
        return (*([self.subject] if self.subject else []), *([limits] if limits else []))

    @property
    def asked(self) -> tuple[object, ...]:
        """What identifies a repeated command that may open a thread."""
        limits = None if self.limits is None else tuple(map(msgspec.structs.astuple, self.limits))
        return () if self == EMPTY else (self.values, self.subject, limits)


EMPTY = Opening()


class StartedTurn(Struct, frozen=True):
    """The result of a command that starts or enqueues a turn, and the turn's id."""

    outcome: CommandResult
    turn_id: TurnId


class ForkedThread(Struct, frozen=True):
    """The result of a fork, and the last version that it shares with its parent."""

    outcome: CommandResult
    at_version: Version


class Service:
    """The API's commands and queries."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.access_log = AccessLogService(runtime)
        self.history = ThreadHistory(runtime, self.access_log)
        self.audit = Verification(runtime, self.access_log)
        self.reading = ReadModelQueries(runtime, self.access_log)
        self.replays = Replays(runtime, self.access_log, self.reading)
        self.identity = IdentityService(runtime, self.access_log)
        self.limits = TenantLimits(runtime, self.reading)
        self.projection_admin = ProjectionAdmin(runtime, self.access_log)
        self.send_buffer = SendBuffer()

    def agent(self, name: str) -> Agent:
        """Return a registered agent. Raises `UnknownGraph`."""
        agents = self.runtime.agents
        if name not in agents:
            raise UnknownGraph(name, tuple(sorted(agents)))
        return agents[name]

    def thread_id(self, given: UUID | None, caller: Caller) -> ThreadId:
        """Return the given thread id, or a new one, derived from the idempotency key if there is one."""
        if given is not None:
            return ThreadId(given)
        if caller.key is not None:
            return ThreadId(uuid5(KEYED_THREADS, f"{caller.tenant}\n{caller.key}"))
        return ThreadId(self.runtime.new_id())

    async def open(
        self, thread_id: ThreadId, graph: str, values: dict[str, object], caller: Caller, opening: Opening = EMPTY
    ) -> CommandResult:
        """Open a thread. Raises `UnknownGraph`, and `InvalidInput` if the values do not fit the graph's model."""
        if opening.subject is not None:
            check_subject(opening.subject)
        values_ = opening_values(self.agent(graph), values)
        command = commands.OpenThread(graph, values_, opening.subject or "", opening.limits or ())
        asked = ("open", graph, values, *opening.given)
        return await self._act(thread_id, lambda _: (command,), caller, asked)

    async def update(self, thread_id: ThreadId, changes: dict[str, object], caller: Caller) -> CommandResult:
        """Change a thread's values. Raises `InvalidInput` if they would not fit the graph's model."""
        command = commands.UpdateValues(changes)

        def plan(state: State) -> Iterable[commands.Command]:
            check_change(changes, state, self.runtime.agents)
            return (command,)

        return await self._act(thread_id, plan, caller, ("values", changes), opened=True)

    async def set_budget(self, thread_id: ThreadId, limits: tuple[Limit, ...], caller: Caller) -> BudgetView:
        """Set a thread's budget. Returns it as of the resulting version, also for a repeated command."""
        asked = ("budget", *map(msgspec.structs.astuple, limits))
        outcome = await self._act(thread_id, lambda _: (commands.SetBudget(limits),), caller, asked, opened=True)
        return budget_view(outcome.loaded, outcome.loaded.head.at, self.runtime.prices)

    async def start_turn(
        self,
        thread_id: ThreadId,
        user_input: str,
        caller: Caller,
        *,
        open_with: str | None = None,
        opening: Opening = EMPTY,
        graph: str | None = None,
        strategy: Strategy | None = None,
        durability: Durability | None = None,
        output: OutputFormat | None = None,
    ) -> StartedTurn:
        """Append the user's message and run the turn in the background.

        `open_with` is the graph to open the thread with if it is new; `graph` the one that an open thread must have.
        `output` is what the answer must be, instead of the agent's own. A new thread is opened with what `opening`
        gives; an open thread must have been opened with it. Raises `UnknownGraph`, `UnknownThread`, `WrongGraph`,
        `ThreadAlreadyOpen`, `ThreadBusy`.
        """
        if open_with is not None:
            self.agent(open_with)
        if opening.subject is not None:
            check_subject(opening.subject)
        tokens = await count_tokens(self.runtime.turns.services.tokens, user_input)
        command_id = self._command_id(thread_id, caller)
        turn_id = turn_of_command(command_id)
        stored = durability or self.runtime.settings.durability

        def plan(state: State) -> Iterable[commands.Command]:
            if isinstance(state, Unopened):
                if open_with is None:
                    raise UnknownThread(thread_id)
                values = opening_values(self.agent(open_with), opening.values or {})
                yield commands.OpenThread(open_with, values, opening.subject or "", opening.limits or ())
                own = open_with
            else:
                own = state.thread.graph
                if graph not in {None, own}:
                    raise WrongGraph(graph or "", own)
                given = None if opening.values is None else opening_values(self.agent(own), opening.values)
                check_opened_with(state.thread, given, opening.subject, opening.limits)
            agent = self.agent(own)
            runs, busy = agent.graph, strategy or agent.busy
            entry = (runs.first, runs.fingerprint)
            yield commands.StartTurn(turn_id, user_input, tokens, *entry, busy, stored, agent.version, output)

        wanted = (*opening.asked, *([output] if output else []))
        asked = ("turn", user_input, open_with, graph, strategy, durability, *wanted)
        outcome = await self._act(thread_id, plan, caller, asked, command_id)
        return StartedTurn(outcome, _turn_of_message(outcome.loaded.state, turn_id))

    async def retry_turn(self, thread_id: ThreadId, retried: TurnId, caller: Caller) -> StartedTurn:
        """Start a new turn at the node where a turn failed or was cancelled.

        The last listed version of the agent that has the node runs it. Raises `UnknownThread`, `ThreadBusy`,
        `NotRetriable`, `MissingNode`.
        """
        command_id = self._command_id(thread_id, caller)
        turn_id = turn_of_command(command_id)

        def plan(state: State) -> Iterable[commands.Command]:
            if isinstance(state, Unopened):
                raise UnknownThread(thread_id)
            agent, node = self.runtime.agents.to_retry(self.agent(state.thread.graph), state, retried)
            entry = (agent.graph.fingerprint, self.runtime.settings.durability, node, agent.version)
            yield commands.RetryTurn(retried, turn_id, *entry)

        return StartedTurn(
            await self._act(thread_id, plan, caller, ("retry", str(retried)), command_id, opened=True), turn_id
        )

    async def cancel_turn(self, thread_id: ThreadId, turn_id: TurnId, caller: Caller) -> CommandResult:
        """Cancel a turn. Raises `UnknownThread`, `TurnHasEnded`."""
        command = commands.CancelTurn(turn_id)
        return await self._act(thread_id, lambda _: (command,), caller, ("cancel", str(turn_id)), opened=True)

    async def decide_approval(
        self, thread_id: ThreadId, approval: int, decided: Decide, caller: Caller
    ) -> CommandResult:
        """Grant, deny or settle what waits for a person's approval, or answer a question.

        Raises `UnknownThread`, `UnknownApproval`, `ApprovalChanged`, `InvalidInput` if the arguments do not fit, and
        `MissingNode` if this process has the agent, but not the node: the decision would be lost.
        """
        if decided.decision == "answer":
            answered = commands.AnswerQuestion(Version(approval), decided.hash, decided.answer)
            given = ("answer", approval, decided.hash, decided.answer)

            def plan(state: State) -> Iterable[commands.Command]:
                if isinstance(state, Running) and open_question(state, approval):
                    self.runtime.agents.check_node(state)
                _check_answer(answered, state)
                return (answered,)

            return await self._act(thread_id, plan, caller, given, opened=True)
        refused = f"A person refused this: {decided.reason}" if decided.reason else "A person refused this."
        answer = refused if decided.result is None else decided.result
        tokens = await count_tokens(self.runtime.turns.services.tokens, answer)
        what = (decided.hash, decided.decision, decided.arguments)
        command = commands.DecideApproval(Version(approval), *what, answer, tokens)
        asked = ("approval", approval, *what, decided.reason, decided.result)

        def checked(state: State) -> Iterable[commands.Command]:
            if any(waits.approval_id == approval for waits in waiting_approvals(state)):
                self.runtime.agents.check_node(state)
            check_decision(command, state, self.runtime.agents)
            return (command,)

        return await self._act(thread_id, checked, caller, asked, opened=True)

    async def decided_turn(self, outcome: CommandResult, approval: int) -> StartedTurn:
        """Return the turn that a decision was about. A repeated request may come when later turns have begun."""
        state, loaded = outcome.loaded.state, outcome.loaded
        if not isinstance(state, Running) or state.turn.started > approval:
            state = (await self.runtime.repository.load_at(loaded.thread_id, Version(approval), loaded.tenant)).state
        if not isinstance(state, Running):
            raise UnknownApproval(Version(approval))
        return StartedTurn(outcome, TurnId(state.turn.turn_id))

    async def fork(self, parent: ThreadId, thread_id: ThreadId, wanted: ForkThread, caller: Caller) -> ForkedThread:
        """Fork a thread at a version. Raises `UnknownThread`, `ThreadAlreadyOpen`, `InvalidInput`."""
        counter, texts = self.runtime.turns.services.tokens, [(edit.version, edit.content) for edit in wanted.messages]
        edits = [commands.EditMessage(Version(at), text, await count_tokens(counter, text)) for at, text in texts]
        changes = commands.UpdateValues(wanted.values) if wanted.values else None
        limits = None if wanted.limits is None else tuple(map(limit_of, wanted.limits))
        budget = None if limits is None else commands.SetBudget(limits)
        at_version = wanted.at_version or (await self.existing(parent, caller)).head.version
        if changes is not None:
            left = await self.runtime.repository.load_at(parent, Version(at_version), caller.tenant)
            check_change(changes.changes, left.state, self.runtime.agents, ends_turn=not wanted.resume)
        command = Fork(parent, Version(at_version), tuple(edits), changes, wanted.resume, budget)
        asked = (
            *("fork", str(parent), wanted.at_version, texts, wanted.values, wanted.resume),
            *([] if limits is None else [tuple(map(msgspec.structs.astuple, limits))]),
        )
        bound = self._bound(thread_id, caller, asked)
        metadata = self._metadata(self._command_id(thread_id, caller), caller)
        outcome = await fork(self.runtime.repository, thread_id, command, metadata, caller.tenant, bound)
        self._announce(outcome, metadata)
        origin = await self.runtime.repository.origin(thread_id)
        return ForkedThread(outcome, origin.version if origin else Version(at_version))

    async def turn_end(self, outcome: CommandResult, turn_id: TurnId, wait_s: float = WAIT_LIMIT_S) -> TurnView | None:
        """Wait for the end of the turn that a command started or cancelled.

        Returns None after `wait_s` seconds, and at once if the thread waits for a person, which may take days: proxies
        close idle connections long before.
        """
        repository, loaded = self.runtime.repository, outcome.loaded
        after = _before_turn(loaded.state, turn_id, loaded.head.version)
        ending = TurnWaiter(repository, loaded.thread_id, turn_id, after)
        with self.runtime.turns.services.broadcast.telling(loaded.thread_id, ending):
            for recorded in outcome.events:
                ending.tell(recorded)
            if not ending.seen(loaded.head.version):
                ending.miss()
            try:
                async with asyncio.timeout(wait_s):
                    await ending.catch_up()  # of a repeated command, the turn may have ended, and a later one may wait
                    if not ending.ended and await self._is_waiting(loaded):
                        return None
                    at_end = await self._early(loaded.thread_id, turn_id, ending)
                    while not await ending.news():
                        if await self._is_waiting(loaded):
                            return None
            except TimeoutError:
                return None
        finished = await Transcript(repository, loaded.thread_id).finished(ending.events)
        if ending.missed:  # another process runs the turn, so the cached state here is stale
            await repository.load(loaded.thread_id, loaded.tenant)
        at_end = at_end or await repository.load_at(loaded.thread_id, finished.version, loaded.tenant)
        wanted = self._wanted(at_end.state, finished.started)
        return turn_view(at_end, finished, self.runtime.prices, wanted, truncated=ending.cut)

    def _wanted(self, state: State, started: events.TurnStarted | None) -> Output[Any]:
        """Return what the answer of a turn was to be. Text, if this process does not have the agent."""
        if started is None or isinstance(state, Unopened):
            return TEXT
        agent = self.runtime.agents.of_version(state.thread.graph, started.agent_version)
        return final_output(agent.output if agent else str, started.output)

    async def _is_waiting(self, loaded: LoadedThread) -> bool:
        """Return whether a thread's turn, and with it the queued ones, waits for a person."""
        return (await self.runtime.repository.load(loaded.thread_id, loaded.tenant)).state.waiting

    async def _early(self, thread_id: ThreadId, turn_id: TurnId, ending: TurnWaiter) -> LoadedThread | None:
        """Wait for an answer that is given before it is stored (durability async), if this process runs the turn.

        Returns the thread with that answer; None if the turn ends or continues without one.
        """
        run = self.runtime.turns.answering(thread_id, turn_id)
        if run is None:
            return None
        answered = asyncio.create_task(run.answered.wait())
        stored = asyncio.create_task(self.runtime.turns.wait(thread_id, turn_id))
        await asyncio.wait({answered, stored}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answered, stored):
            task.cancel()
        loaded = run.loaded
        return loaded if not ending.ended and ending.foresee(run.kept) else None

    async def workers(self) -> Sequence[WorkerView]:
        """List the processes that run turns."""
        return [view_of(WorkerView, row, worker_id=row.id) for row in await self.runtime.worker.leases.workers()]

    async def existing(self, thread_id: ThreadId, caller: Caller) -> LoadedThread:
        """Return a thread as it is now. Raises `UnknownThread`."""
        return await self.runtime.repository.existing(thread_id, caller.tenant)

    async def budget(self, thread_id: ThreadId, caller: Caller, point: PointInTime = NOW) -> BudgetView:
        """Return a thread's limits and spending, in the windows of now, of a version, or of an instant."""
        loaded = await self.history.loaded(thread_id, caller.tenant, point)
        at = loaded.head.at  # never later than `point`
        if point.at is not None:
            at = point.at.astimezone(UTC)
        elif not point.given:
            at = max(self.runtime.clock.now(), at)
        return budget_view(loaded, at, self.runtime.prices)

    async def _act(
        self,
        thread_id: ThreadId,
        plan: Plan,
        caller: Caller,
        asked: tuple[object, ...],
        command_id: CommandId | None = None,
        *,
        opened: bool = False,
    ) -> CommandResult:
        """Execute a command, and notify streams and the worker. `opened`: the thread must exist."""

        def checked(state: State) -> Iterable[commands.Command]:
            if opened and isinstance(state, Unopened):  # the same answer as for another tenant's thread
                raise UnknownThread(thread_id)
            if caller.existing and isinstance(state, Unopened):
                raise VersionConflict(START, START)
            return plan(state)

        await self.runtime.turns.settled(thread_id)
        metadata = self._metadata(command_id or self._command_id(thread_id, caller), caller)
        bound = self._bound(thread_id, caller, asked)
        request = CommandRequest(thread_id, checked, metadata, caller.tenant, caller.seen, bound)
        outcome = await execute(self.runtime.repository, request)
        self._announce(outcome, metadata)
        return outcome

    def _announce(self, outcome: CommandResult, metadata: Metadata) -> None:
        """Send new events to streams, and notify the worker if there is something to run."""
        self.runtime.turns.services.broadcast.send(outcome.loaded.thread_id, outcome.events)
        if outcome.loaded.state.in_turn and any(isinstance(recorded.event, RUNNABLE) for recorded in outcome.events):
            started = (one for one in outcome.events if isinstance(one.event, events.TurnStarted | events.ThreadForked))
            self.runtime.worker.ready(outcome.loaded, caused_by(metadata), next(started, None))

    def _bound(self, thread_id: ThreadId, caller: Caller, asked: tuple[object, ...]) -> IdempotencyKey | None:
        return idempotency_key(thread_id, caller.key, (*asked, caller.seen)) if caller.key is not None else None

    def _metadata(self, command_id: CommandId, caller: Caller) -> Metadata:
        return Metadata(
            command_id,
            correlation=caller.correlation,
            actor=caller.actor,
            client=caller.client,
            principal=caller.principal,
        )

    def _command_id(self, thread_id: ThreadId, caller: Caller) -> CommandId:
        if caller.key is not None:
            return CommandId(uuid5(thread_id, caller.key))
        return CommandId(self.runtime.new_id())


def turn_of_command(command_id: CommandId) -> TurnId:
    """Return the id of the turn that a command starts."""
    return TurnId(uuid5(command_id, "turn"))


def _turn_of_message(state: State, turn_id: TurnId) -> TurnId:
    """Return the turn that a message belongs to: the one that it starts, or the one whose question it answers."""
    if not isinstance(state, Running):
        return turn_id
    known = {state.turn.turn_id, *(queued.turn_id for queued in state.thread.queue)}
    return turn_id if turn_id in known else TurnId(state.turn.turn_id)


def _check_answer(command: commands.AnswerQuestion, state: State) -> None:
    """Check that an answer fits what is asked for. Raises `InvalidInput`."""
    question = open_question(state, command.question)
    if question and question.hash == command.hash:
        if question.schema:
            check_schema(command.answer, question.schema, "answer")
        else:
            check_text_answer(command.answer, "answer")


def _before_turn(state: State, turn_id: TurnId, head: Version) -> Version:
    """Return a version before the turn's first event."""
    if isinstance(state, Running) and state.turn.turn_id == turn_id:
        return Version(state.turn.started - 1)
    queue = () if isinstance(state, Unopened) else state.thread.queue
    return head if any(queued.turn_id == turn_id for queued in queue) else START
