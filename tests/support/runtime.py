"""A runtime of memory stores and a scripted model, for tests of the use cases."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from domain.agents.agent import Agent
from domain.agents.graph import Graph, Node, RetryPolicy
from domain.agents.tools import Tool, tool
from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.null import NullLedger
from domain.application.budget.reservations import Reservations
from domain.application.budget.turn_budget import BudgetServices
from domain.application.command_handler import CommandRequest, CommandResult, execute
from domain.application.replay.replay import FREE
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.run import TurnRun
from domain.application.turns.runner import TurnRunner
from domain.application.turns.services import TurnServices
from domain.application.turns.worker import Worker
from domain.budget.prices import Prices
from domain.errors import ToolError
from domain.ids import ThreadId, TurnId, WorkerId
from domain.models.chat import ChatAnswer, ChatRequest, ModelUnreachable, OnDelta, OutputFormat, ToolCall, Usage
from domain.ports.hot import HotStore
from domain.ports.ledger import Ledger
from domain.ports.log import EventStore
from domain.prompt.summary import INSTRUCTIONS
from domain.thread.codec import Metadata
from domain.thread.commands import OpenThread, StartTurn
from domain.thread.events import END, Durability, Event
from domain.thread.state import State
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.leases import MemoryLeaseStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from infrastructure.memory.texts import MemoryTextStore
from infrastructure.memory.wakeups import MemoryWakeups

Reply = ChatAnswer | Exception


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 10, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Words:
    """Counts words for tokens."""

    def count(self, text: str) -> int:
        return len(text.split())


@dataclass
class Script:
    """A model that says its lines, and keeps what it was asked. It has other lines for when it is to summarise."""

    lines: list[Reply]
    asked: list[ChatRequest] = field(default_factory=list)
    summaries: list[Reply] = field(default_factory=list)
    to_summarise: list[str] = field(default_factory=list)

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        await asyncio.sleep(0)
        if request.messages[0].content == INSTRUCTIONS:
            self.to_summarise.append(request.messages[1].content or "")
            line = self.summaries.pop(0) if self.summaries else ModelUnreachable()
        else:
            self.asked.append(request)
            line = self.lines.pop(0)
        if isinstance(line, Exception):
            raise line
        if on_delta and line.content:
            on_delta(line.content)
        return line

    async def close(self) -> None:
        return


def says(content: str) -> ChatAnswer:
    return ChatAnswer(content, (), "stop", "script", Usage(10, 2))


def calls(*requests: tuple[str, dict[str, object]]) -> ChatAnswer:
    asked = tuple(ToolCall(f"call_{n}", name, arguments) for n, (name, arguments) in enumerate(requests))
    return ChatAnswer(None, asked, "tool_calls", "script", Usage(10, 2))


@dataclass
class Stage:
    """Everything that a turn needs, and shorthands to run one."""

    agent: Agent
    script: Script
    clock: Clock = field(default_factory=Clock)
    store: EventStore = field(default_factory=MemoryEventStore)
    snapshots: MemorySnapshotStore = field(default_factory=MemorySnapshotStore)
    thread_id: ThreadId = field(default_factory=lambda: ThreadId(uuid4()))
    context_window: int = 8_000
    snapshot_every: int = 100
    hot: HotStore | None = None
    ledger: Ledger = field(default_factory=NullLedger)
    prices: Prices = FREE
    models: ModelRegistry | None = None
    texts: MemoryTextStore = field(default_factory=MemoryTextStore)

    def __post_init__(self) -> None:
        self.repository = ThreadRepository(
            self.store, self.snapshots, self.clock, fingerprint="test", snapshot_every=self.snapshot_every
        )
        self.leases = MemoryLeaseStore(self.clock, self.store if isinstance(self.store, MemoryEventStore) else None)
        reservations = Reservations(self.ledger, LimitsCache(self.ledger, self.clock), self.repository, self.prices)
        self.account = BudgetServices(reservations, self.prices, self.clock, uuid4)
        services = TurnServices(
            self.repository,
            self.models or ModelRegistry.alone(self.script, "script"),
            Words(),
            Broadcast(),
            self.context_window,
            self.account,
            PromptParts(Words(), self.texts),
            self.hot,
        )
        self.turns = TurnRunner(services, {self.agent.name: self.agent})

    def worker(self, turns: TurnRunner | None = None) -> Worker:
        """Make a worker that comes when others have left or died long ago."""
        self.clock.pass_(1_000)
        return Worker(
            turns or self.turns,
            self.leases,
            MemoryWakeups(),
            self.leases.suspects,
            self.leases.loans,
            WorkerId(uuid4()),
            "test",
        )

    def run(self, loaded: LoadedThread) -> TurnRun:
        """Make a run, to take its steps one by one."""
        return TurnRun(self.turns.services, loaded, Metadata())

    async def begin(
        self, content: str, durability: Durability = "sync", output: OutputFormat | None = None
    ) -> CommandResult:
        graph = self.agent.graph
        start = StartTurn(
            *(TurnId(uuid4()), content, len(content.split()), graph.first, graph.fingerprint),
            durability=durability,
            agent_version=self.agent.version,
            output=output,
        )

        def plan(state: object) -> Sequence[OpenThread | StartTurn]:
            return (start,) if hasattr(state, "thread") else (OpenThread(self.agent.name), start)

        return await execute(self.repository, CommandRequest(self.thread_id, plan))

    async def say(self, content: str, output: OutputFormat | None = None) -> LoadedThread:
        outcome = await self.begin(content, output=output)
        return await self.turns.run(outcome.loaded, Metadata(causation=None))

    async def settled(self) -> State:
        """Wait until there is nothing to run in the thread."""
        while (state := (await self.repository.load(self.thread_id)).state).in_turn:
            await asyncio.sleep(0)
        return state

    async def events(self) -> list[Event]:
        return [recorded.event async for recorded in self.repository.follow(self.thread_id)]

    async def saved(self, *kinds: type[Event]) -> None:
        """Wait until an event of one of these kinds is stored."""
        while not await self.happened(*kinds):
            await asyncio.sleep(0.001)

    def forget(self, thread_id: ThreadId) -> None:
        """Drop a thread from memory, so that it is folded from the store."""
        self.repository._hot.discard(thread_id)

    def forget_hot(self) -> None:
        """Drop the thread from memory if it is there."""
        self.repository._hot.discard(self.thread_id)

    async def happened(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in await self.events() if isinstance(event, kinds)]


def stage(agent: Agent, *lines: Reply, **more: object) -> Stage:
    return Stage(agent, Script(list(lines)), **more)  # type: ignore[arg-type]


@tool(idempotent=True)
async def double(number: int) -> int:
    """Double a number."""
    if number > 1_000:
        raise ToolError("That is too much.")
    return number * 2


def one_node(run: object, *, retry: RetryPolicy | None = None, timeout: float = 5, tools: Sequence[Tool] = ()) -> Agent:
    node = Node("only", run, timeout=timeout, retry=retry or RetryPolicy())  # type: ignore[arg-type]
    return Agent(Graph("solo", "only", [node], {"only": END}), tools=tools)
