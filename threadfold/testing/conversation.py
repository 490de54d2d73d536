"""A conversation with an agent in a test: the real runtime, on stores in memory."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace as replace_fields
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.callables import described
from domain.agents.graph import Graph, Subgraph, alias_advice
from domain.agents.registry import Agents
from domain.application.budget.null import null_budget
from domain.application.command_handler import CommandRequest, execute
from domain.application.replay.replay import FREE
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.check_input import check_decision, opening_values
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.runner import TurnRunner
from domain.application.turns.services import TurnServices
from domain.errors import LeaseLost
from domain.ids import Position, ThreadId, TurnId
from domain.json import Json, JsonObject
from domain.ports.log import Append
from domain.thread import commands
from domain.thread.codec import Metadata, Recorded
from domain.thread.events import Event, TurnStarted
from domain.thread.state import Running, State, Thread, Unopened
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.memory.texts import MemoryTextStore
from threadfold.testing.crash import CrashPoint
from threadfold.testing.results import Pending, TurnResult, pending_in, result_of
from threadfold.testing.script import Script


class Conversation:
    """A thread of an agent, with a scripted model. `values` and `subject` are those that it is opened with.

    `actor` is who sends the messages.

    Delays between attempts at nodes are left out. Each test needs a conversation of its own, and may be run by any
    runner of async tests, or by `asyncio.run`.
    """

    def __init__(
        self,
        agent: Agent,
        script: Script | None = None,
        *,
        values: JsonObject | None = None,
        subject: str = "",
        actor: str | None = None,
        window: int = 32_000,
    ) -> None:
        self.script = script or Script()
        self.thread_id = ThreadId(uuid4())
        _check_agents(agent)
        self._name, self._window, self._values, self._subject = agent.name, window, values or {}, subject
        self._metadata = Metadata(actor=actor)
        self._store, self._texts = MemoryEventStore(), MemoryTextStore()
        self.deploy(agent)
        opening_values(agent, self._values)

    def deploy(self, *agents: Agent) -> None:
        """Let the processes from now on have these versions of the agent, as `AGENTS` lists them: the last one is new.

        What waits, runs or crashed goes on by the same rules as after a deployment: with its own version if it is among
        them, else with the last one, at the node of the same name or alias.
        """
        if not agents:
            raise ValueError("deploy: name at least one agent")
        _check_agents(*agents)
        if other := next((agent.name for agent in agents if agent.name != self._name), None):
            raise ValueError(f"deploy: the conversation is with the agent {self._name!r}, not with {other!r}")
        self._agents = Agents.listed(map(_without_delays, agents))
        self._start_process("")

    async def say(self, text: str, *, crash: str = "") -> TurnResult:
        """Send a message, and run its turn until it ends or waits.

        `crash` kills the process at a point such as "after ToolStarted" or "before ToolSucceeded": an event of that
        type has just been stored, or is about to be. "before ToolStarted of refund #2" names the tool or node, and
        counts such events from this call of the method on. `resume` then goes on in another process.
        """
        self._start_process(crash)
        agent, opening = self._agents[self._name], list[commands.Command]()
        if isinstance((await self._load()).state, Unopened):
            opening = [commands.OpenThread(self._name, opening_values(agent, self._values), self._subject)]
        entry = (agent.graph.first, agent.graph.fingerprint, agent.busy)
        words = len(text.split())
        start = commands.StartTurn(TurnId(uuid4()), text, words, *entry, agent_version=agent.version)
        return await self._go_on(*opening, start)

    async def grant(self, *, crash: str = "", **arguments: Json) -> TurnResult:
        """Grant what waits for an approval, with other arguments if some are given, and go on."""
        one = await self._only("call", "node")
        changed = {**one.arguments, **arguments} if arguments else None
        return await self._decide(commands.DecideApproval(one.version, one.hash, "grant", changed), crash)

    async def deny(self, reason: str = "", *, crash: str = "") -> TurnResult:
        """Deny what waits for an approval, and go on."""
        one = await self._only("call", "node")
        told = f"A person refused this: {reason}" if reason else "A person refused this."
        return await self._decide(
            commands.DecideApproval(one.version, one.hash, "deny", told=told, tokens=len(told.split())), crash
        )

    async def settle(self, result: str, *, crash: str = "") -> TurnResult:
        """Say what came of a call that a crash left unknown and whose tool has `if_unknown="ask_person"`; and go on."""
        one = await self._only("call")
        settled = commands.DecideApproval(one.version, one.hash, "settle", told=result, tokens=len(result.split()))
        return await self._decide(settled, crash)

    async def answer(self, value: Json, *, crash: str = "") -> TurnResult:
        """Answer the question that a node or a tool asks a person, and go on. A customer answers by `say`."""
        one = await self._only("question")
        return await self._decide(commands.AnswerQuestion(one.version, one.hash, value), crash)

    async def resume(self, *, crash: str = "") -> TurnResult:
        """Go on after a crash, in another process."""
        self._start_process(crash)
        return await self._go_on()

    async def retry(self) -> TurnResult:
        """Start the last turn, which failed, again at the node where it ended."""
        self._start_process("")
        state = (await self._load()).state
        last = None if isinstance(state, Unopened) else state.thread.last_turn
        if isinstance(state, Unopened) or last is None:
            raise AssertionError("There is no turn to retry.")
        agent, node = self._agents.to_retry(self._agents[self._name], state, TurnId(last.turn_id))
        turns = (TurnId(last.turn_id), TurnId(uuid4()))
        again = commands.RetryTurn(*turns, agent.graph.fingerprint, node=node, agent_version=agent.version)
        return await self._go_on(again)

    async def pending(self) -> list[Pending]:
        """Return what the turn waits for."""
        return pending_in((await self._load()).state)

    async def thread(self) -> Thread:
        """Return the thread's state: `values`, `window`, `usage` and so on."""
        state = (await self._load()).state
        if isinstance(state, Unopened):
            raise AssertionError("Nothing was said yet.")  # noqa: TRY004  (a mistake of the test, not of a type)
        return state.thread

    async def events(self) -> list[Event]:
        """Return all events of the thread."""
        return [recorded.event for recorded in await self._recorded()]

    def _start_process(self, crash: str) -> None:
        """Begin as another process does: with the log, and nothing in memory."""
        self._process = _Process(self._store, CrashPoint(crash) if crash else None)
        clock, counter = _Clock(), _Words()
        self._repository = ThreadRepository(self._store, MemorySnapshotStore(), clock, fingerprint="test")
        repository = ThreadRepository(self._process, MemorySnapshotStore(), clock, fingerprint="test")
        services = TurnServices(
            repository,
            ModelRegistry.alone(self.script),
            counter,
            Broadcast(),
            self._window,
            null_budget(repository, clock, FREE),
            PromptParts(counter, self._texts),
        )
        self._runner = TurnRunner(services, self._agents)

    async def _load(self) -> LoadedThread:
        return await self._repository.load(self.thread_id)

    async def _recorded(self) -> list[Recorded]:
        return [recorded async for recorded in self._repository.follow(self.thread_id)]

    async def _only(self, *kinds: str) -> Pending:
        found = [one for one in await self.pending() if one.kind in kinds]
        if not found:
            waits = [one.kind for one in await self.pending()]
            raise AssertionError(f"Nothing waits for this; the turn waits for: {', '.join(waits) or 'nothing'}")
        return found[0]

    async def _decide(self, command: commands.DecideApproval | commands.AnswerQuestion, crash: str) -> TurnResult:
        """Decide as the server does, which refuses what would be lost."""
        self._start_process(crash)
        state = (await self._load()).state
        self._agents.check_node(state)
        if isinstance(command, commands.DecideApproval):
            check_decision(command, state, self._agents)
        return await self._go_on(command)

    async def _go_on(self, *more: commands.Command) -> TurnResult:
        """Carry out commands as another process, and run the turn in this one."""
        before = (await self._load()).state
        if more:
            await execute(self._repository, CommandRequest(self.thread_id, lambda _: more, self._metadata))
        loaded = await self._load()
        self._process.learn(await self._recorded())
        with suppress(LeaseLost):
            if self._stuck_at(loaded.state) is None:
                await self._run(loaded, before)
        self.script.check()
        if (point := self._process.point) and not self._process.crashed:
            kinds = ", ".join(self._process.learn(await self._recorded()))
            raise AssertionError(f"The turn did not reach {point.text!r}; its events are: {kinds}")
        return await self._result()

    async def _run(self, loaded: LoadedThread, before: State) -> None:
        """Run the turn in progress, and then the turns of queued messages."""
        if isinstance(loaded.state, Running) and isinstance(before, Running) and not loaded.state.waiting:
            turn, agent = loaded.state.turn, self._agents.running(loaded.state) or self._agents[self._name]
            resume = commands.ResumeTurn(TurnId(turn.turn_id), turn.run, "test", agent.graph.fingerprint)
            resuming = CommandRequest(self.thread_id, lambda _: (resume,))
            loaded = (await execute(self._runner.services.repository, resuming)).loaded
        while isinstance(loaded.state, Running):
            turn_id = loaded.state.turn.turn_id
            loaded = await self._runner.run(loaded, self._metadata)
            if isinstance(loaded.state, Running) and loaded.state.turn.turn_id == turn_id:
                return

    def _stuck_at(self, state: State) -> str | None:
        """Return the missing node at which a worker would leave the turn as it is, to lose none of its work."""
        if not isinstance(state, Running) or state.turn.waits or not state.turn.has_open_work:
            return None
        agent = self._agents.running(state)
        return state.turn.node if agent and agent.graph.find(state.turn.node) is None else None

    async def _result(self) -> TurnResult:
        recorded, state = await self._recorded(), (await self._load()).state
        begun = max(i for i, one in enumerate(recorded) if isinstance(one.event, TurnStarted))
        result = result_of(recorded[begun:], state, crashed=self._process.crashed)
        node = self._stuck_at(state) if result.status == "stuck" else None
        if node is None:
            return result
        return replace(result, detail=f"No agent here has the node {node!r}. {alias_advice(node)}.")


class _Process:
    """An `EventStore` whose process dies at a point: from then on, another one has its lease."""

    def __init__(self, store: MemoryEventStore, point: CrashPoint | None) -> None:
        self._store, self.point, self.crashed = store, point, False

    def learn(self, recorded: Sequence[Recorded]) -> Sequence[str]:
        """Tell the point what is stored; returns what its error shows of that."""
        return self.point.learn((one.version, one.event) for one in recorded) if self.point else ()

    async def append(self, append: Append) -> Position:
        """Append, unless the process has died."""
        reached = self.point is not None and self.point.reached(append)
        if self.crashed or (reached and self.point and self.point.is_before):
            self.crashed = True
            raise LeaseLost
        position = await self._store.append(append)
        if reached:
            self.crashed = True
            raise LeaseLost
        return position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class _Words:
    def count(self, text: str) -> int:
        return len(text.split())


def _check_agents(*agents: object) -> None:
    """Check what type hints say, for authors without a type checker."""
    for agent in agents:
        if not isinstance(agent, Agent):
            raise TypeError(f"must be an Agent, as in assistant(...) or Agent(Graph(...)), not {described(agent)}")


def _without_delays(agent: Agent) -> Agent:
    return replace_fields(agent, graph=_quick(agent.graph))


def _quick(graph: Graph) -> Graph:
    nodes = [
        replace_fields(step, graph=_quick(step.graph))
        if isinstance(step, Subgraph)
        else replace(step, retry=replace(step.retry, first_delay=0.0))
        for step in graph.nodes
    ]
    return replace_fields(graph, nodes=nodes)
