"""Recorded replay: run a thread's turns again with the recorded answers of models and tools, without calling any.

Each turn begins in the state that the log has before it, with the current agent or another one. Its events are then
compared with the log: where the turn differs first, and how long its prompts are.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from datetime import date
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.graph import Graph, Node, Subgraph
from domain.agents.tools import ONCE, ToolContext, ToolHandler
from domain.application.budget.null import NullTextStore, null_budget
from domain.application.recall.messages import read_messages
from domain.application.recall.search import MessageSearch
from domain.application.streaming.broadcast import Broadcast
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.application.turns.prompt_parts import PromptParts
from domain.application.turns.runner import TurnRunner
from domain.application.turns.services import TurnServices
from domain.budget.prices import Prices
from domain.errors import ToolError
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId, Version
from domain.json import JsonObject
from domain.models.chat import ChatAnswer, ChatRequest, ModelError, OnDelta, ToolCall, Usage
from domain.ports.clock import Clock
from domain.ports.recall import Finder
from domain.ports.tokens import TokenCounter
from domain.prompt.summary import INSTRUCTIONS, parse_written
from domain.recall.bm25 import Hit
from domain.recall.excerpts import Excerpt, part_of
from domain.thread import events
from domain.thread.codec import Metadata, Recorded, to_json
from domain.thread.state import Unopened

Fact: TypeAlias = tuple[str, ...]
"""What happened, without what depends on time, place and the number of attempts."""

FREE = Prices(date.min)
"""A price list without prices."""


class NotRecorded(ModelError):
    """No answer was recorded for this call."""


class ReplayedTurn(Struct, frozen=True):
    """How a replayed turn compares. `parted` is the version of the first difference from the log, or None.

    `recorded` and `replayed` say what happened there. Prompts are in tokens, one number for each model call.
    """

    version: Version
    said: str
    parted: Version | None
    recorded: str | None
    replayed: str | None
    prompts_then: Sequence[int]
    prompts_now: Sequence[int]


@dataclass(frozen=True)
class Replay:
    """Replays turns. `sandbox` makes an empty repository in memory for each turn."""

    repository: ThreadRepository
    sandbox: Callable[[], ThreadRepository]
    tokens: TokenCounter
    context_window: int
    clock: Clock

    async def thread(self, thread_id: ThreadId, agent: Agent, tenant: Tenant = DEFAULT_TENANT) -> list[ReplayedTurn]:
        """Replay every ended turn of a thread. Raises `UnknownThread`."""
        await self.repository.existing(thread_id, tenant)
        turns: list[ReplayedTurn] = []
        turn_events: list[Recorded] = []
        async for recorded in self.repository.follow(thread_id):
            if isinstance(recorded.event, events.TurnStarted):
                turn_events = [recorded]
            elif turn_events:
                turn_events.append(recorded)
                if isinstance(recorded.event, events.TurnEnd):
                    turns.append(await self._turn(turn_events, agent, thread_id, tenant))
                    turn_events = []
        return turns

    async def _turn(
        self, recorded: Sequence[Recorded], agent: Agent, thread_id: ThreadId, tenant: Tenant
    ) -> ReplayedTurn:
        started = recorded[0].event
        if not isinstance(started, events.TurnStarted):
            raise TypeError("The first event of a turn must be TurnStarted")
        answers = RecordedAnswers(recorded)
        node = started.node if started.retries else agent.graph.first
        begun = replace(started, node=node, graph=agent.graph.fingerprint)
        said = next((r.event for r in recorded[1:2] if isinstance(r.event, events.MessageAppended)), None)
        repository = self.sandbox()
        before = await self._before(recorded[0], thread_id, tenant)
        chained = repository.chain(before, [begun, *([said] if said else [])], Metadata(), forked=True)
        loaded, _ = await repository.append(chained)
        services = TurnServices(
            repository,
            ModelRegistry.alone(answers),
            self.tokens,
            Broadcast(),
            self.context_window,
            null_budget(repository, self.clock, FREE),
            PromptParts(self.tokens, NullTextStore()),
            recall=ReplayedRecall(log=self.repository, thread_id=thread_id, answers=answers),
        )
        own = loaded.state.thread.graph if not isinstance(loaded.state, Unopened) else agent.name
        await TurnRunner(services, {own: answers.acted_by(agent)}).run(loaded, Metadata())
        again = [recorded async for recorded in repository.follow(thread_id, before.head.version)]
        return _compared(recorded, again, said.content or "" if said else "")

    async def _before(self, started: Recorded, thread_id: ThreadId, tenant: Tenant) -> LoadedThread:
        """Load the thread right before a turn, without its queue and its budget: a replay spends nothing."""
        loaded = await self.repository.load_at(thread_id, Version(started.version - 1), tenant)
        state = loaded.state
        if isinstance(state, Unopened):
            return loaded
        return replace(loaded, state=replace(state, thread=replace(state.thread, queue=(), budget=None)))


class RecordedAnswers:
    """The answers of models and tools in a recorded turn. Is a `ChatModel`, and makes an agent with replayed tools."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        """Read the answers from a turn's events."""
        self.recalled: deque[tuple[events.Recalled, ...]] = deque()
        """What each of the coming prompts recalled."""
        self._answers: deque[ChatAnswer] = deque()
        self._summaries: deque[ChatAnswer | None] = deque()
        self._tool_outcomes: defaultdict[str, deque[tuple[bool, str]]] = defaultdict(deque)
        self._read_models(recorded)
        self._read_tools(recorded)

    def _read_models(self, recorded: Sequence[Recorded]) -> None:
        """Read answers and summaries. A summary that failed, or could not be parsed, is None."""
        recalled: tuple[events.Recalled, ...] = ()
        called: events.ModelCalled | None = None
        unanswered = False
        for position, entry in enumerate(recorded):
            match entry.event:
                case events.ContextAssembled():
                    recalled = entry.event.recalled
                case events.ModelCalled():
                    called, unanswered = entry.event, True
                case events.ModelFailed():
                    unanswered = True
                case events.MessageAppended() if called:
                    self._answers.append(_answer(called, entry.event, recorded[position + 1 :]))
                    self.recalled.append(recalled)
                    called, unanswered = None, False
                case events.HistoryCompacted(by=by, summary=summary) if called and by:
                    self._summaries.append(ChatAnswer(to_json(parse_written(summary)), (), "stop", by))
                    called, unanswered = None, False
                case events.NodeCompleted() if unanswered:
                    self._summaries.append(None)
                    called, unanswered = None, False
                case events.NodeFailed() | events.ItemCompleted() | events.ItemFailed():
                    called, unanswered = None, False

    def _read_tools(self, recorded: Sequence[Recorded]) -> None:
        asked: dict[int, events.ToolRequested] = {}
        for entry in recorded:
            event = entry.event
            if isinstance(event, events.ToolRequested) and not event.fault:  # faulty calls are not run
                asked[entry.version] = event
            elif (outcome := _outcome(event)) and outcome[0] in asked:
                request = asked[outcome[0]]
                self._tool_outcomes[_key(request.tool, request.arguments)].append(outcome[1:])

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Return the next recorded answer."""
        del on_delta
        if request.messages[0].content == INSTRUCTIONS:
            summary = self._summaries.popleft() if self._summaries else None
            if summary is None:
                raise NotRecorded("no summary was recorded")
            return summary
        if not self._answers:
            raise NotRecorded("the model is called once more than in the recorded turn")
        self.recalled.popleft()
        return self._answers.popleft()

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def acted_by(self, agent: Agent) -> Agent:
        """Copy an agent, with tools that return the recorded outcomes, and without approvals."""
        tools = [
            replace(
                tool,
                run=self._handler(tool.name),
                timeout=3600.0,
                idempotent=True,
                approval=False,
                check=None,
                retry=ONCE,
                takes_context=False,
            )
            for tool in agent.tools
        ]
        graph = agent.graph
        return replace_fields(agent, tools=tools, graph=replace_fields(graph, nodes=_without_approvals(graph)))

    def _handler(self, tool: str) -> ToolHandler:
        async def replayed(arguments: JsonObject, _: ToolContext) -> Any:
            answers = self._tool_outcomes.get(_key(tool, arguments))
            if not answers:
                raise ToolError(f"not recorded: {tool} was not called with these arguments")
            succeeded, text = answers.popleft()
            if not succeeded:
                raise ToolError(text)
            return text

        return replayed


class EmptyFinder:
    """A `Finder` that finds nothing."""

    async def find(self, *_: object) -> Sequence[Hit]:
        """Return no hits."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ReplayedRecall(MessageSearch):
    """Recalls what the prompts of a recorded turn recalled: a search may have other results today."""

    log: ThreadRepository
    thread_id: ThreadId
    answers: RecordedAnswers
    finder: Finder = field(default_factory=EmptyFinder)

    async def recall(self, *_: object) -> Sequence[Excerpt]:
        """Read from the log what the next prompt recalled."""
        parts = self.answers.recalled[0] if self.answers.recalled else ()
        said = await read_messages(self.log, self.thread_id, [Version(part.message) for part in parts])
        return [part_of(said[part.message], part) for part in parts if part.message in said]

    async def again(self, *_: object) -> Sequence[Excerpt]:
        """Return the same."""
        return await self.recall()


def _without_approvals(graph: Graph) -> Sequence[Node | Subgraph]:
    return [
        Subgraph(step.name, replace_fields(step.graph, nodes=_without_approvals(step.graph)))
        if isinstance(step, Subgraph)
        else replace(step, approval=False, timeout=3600.0)
        for step in graph.nodes
    ]


def _answer(called: events.ModelCalled, said: events.MessageAppended, following: Iterable[Recorded]) -> ChatAnswer:
    calls = []
    for entry in following:
        if not isinstance(entry.event, events.ToolRequested):
            break
        asked = entry.event
        calls.append(ToolCall(asked.call_id, asked.tool, asked.arguments, asked.written, asked.fault, asked.extra))
    usage = None if called.estimated else Usage(called.prompt_tokens, called.completion_tokens, called.cached)
    refused = said.finish == "refusal"
    answer = ChatAnswer(said.content, tuple(calls), called.finish_reason, called.model, usage, refused=refused)
    return replace(answer, extra=said.extra, origin=said.origin, omitted=called.omitted)


def _outcome(event: events.Event) -> tuple[int, bool, str] | None:
    match event:
        case events.ToolSucceeded():
            return event.call, True, event.content
        case events.ToolFailed() | events.ToolOutcomeUnknown():
            return event.call, False, event.error
        case events.ApprovalDenied():
            return event.approval, False, event.reason
        case _:
            return None


def _key(tool: str, arguments: JsonObject) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"


def _compared(then: Sequence[Recorded], now: Sequence[Recorded], said: str) -> ReplayedTurn:
    recorded, replayed = _facts(then), _facts(now)
    parted: Version | None = None
    one: str | None = None
    other: str | None = None
    for place in range(max(len(recorded), len(replayed))):
        was = recorded[place] if place < len(recorded) else None
        new = replayed[place] if place < len(replayed) else None
        if was is not None and was[1] is None:
            break  # a client cancelled the turn, or changed the thread: that cannot be replayed
        if was is None or new is None or was[1] != new[1]:
            parted = was[0] if was else then[-1].version
            one, other = (" ".join(fact[1]) if fact and fact[1] else None for fact in (was, new))
            break
    prompts = [[r.event.tokens for r in turn if isinstance(r.event, events.ContextAssembled)] for turn in (then, now)]
    return ReplayedTurn(then[0].version, said, parted, one, other, prompts[0], prompts[1])


def _facts(turn: Sequence[Recorded]) -> list[tuple[Version, Fact | None]]:
    """Return what happened in a turn, with the outcomes of tool calls in the order of the calls."""
    facts: list[tuple[Version, Fact | None]] = []
    outcomes: list[tuple[int, Version, Fact]] = []
    for entry in turn:
        if outcome := _outcome(entry.event):
            call, succeeded, text = outcome
            outcomes.append((call, entry.version, ("a tool answers:" if succeeded else "a tool fails:", text)))
            continue
        if (fact := _fact(entry.event)) is not None:
            facts += [(version, outcome_fact) for _, version, outcome_fact in sorted(outcomes)]
            outcomes = []
            facts.append((entry.version, fact or None))
    return facts


def _fact(event: events.Event) -> Fact | None:
    """Return the fact of an event. An empty fact ends the comparison; events with None are not compared."""
    match event:
        case events.MessageAppended():
            return (f"the {event.role} says:", event.content or "")
        case events.ToolRequested():
            return (f"{event.tool} is asked for:", json.dumps(event.arguments, sort_keys=True))
        case events.StateUpdated(outside=False):
            return ("values change:", json.dumps(event.changes, sort_keys=True))
        case events.NodeCompleted():
            return (f"{event.node} leads to", event.next)
        case events.HistoryCompacted():
            return ("history is compacted to:", event.summary)
        case events.StateUpdated() | events.CancellationRequested():
            return ()
        case events.TurnFailed(reason="budget_exhausted" | "empty_answer" | "content_filter"):
            return ()
        case events.TurnFailed():
            return ("the turn fails:", event.reason, event.detail)
        case _ if isinstance(event, events.TurnEnd):
            return (type(event).__name__,)
        case _:
            return None
