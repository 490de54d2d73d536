"""The answers of models, tools and people in a recorded turn, for a replay of it."""

import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace as replace_fields
from typing import Any

from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.graph import Graph, Node, Subgraph
from domain.agents.tools import ONCE, Tool, ToolContext, ToolHandler
from domain.errors import ToolError, UserCodeFailed
from domain.ids import START, Version
from domain.json import Json, JsonObject
from domain.models.chat import ChatAnswer, ChatRequest, ModelError, OnDelta, ToolCall, Usage
from domain.prompt.summary import INSTRUCTIONS, parse_written
from domain.thread import events
from domain.thread.codec import Recorded, to_json


class NotRecorded(ModelError):
    """No answer was recorded for this call."""


async def _start() -> Version:
    return START


class RecordedAnswers:
    """The recorded answers of one turn. Is a `ChatModel`, and makes an agent with replayed tools.

    `unknown` says what the log could not answer; a replay that met it may differ for that reason. Events up to
    `known_to` were stored before, so they do not depend on it; None if the log could answer everything.
    """

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        """Read the answers from a turn's events."""
        self.recalled: deque[tuple[events.Recalled, ...]] = deque()
        """What each of the coming prompts recalled."""
        self.unknown: list[str] = []
        self.known_to: Version | None = None
        self.head: Callable[[], Awaitable[Version]] = _start
        """Returns the last version of the replay."""
        self._answers: deque[ChatAnswer] = deque()
        self._summaries: deque[ChatAnswer | None] = deque()
        self._asked: defaultdict[str, deque[ChatAnswer]] = defaultdict(deque)
        self._questions: defaultdict[str, deque[Json]] = defaultdict(deque)
        self._tool_outcomes: defaultdict[str, deque[tuple[bool, str]]] = defaultdict(deque)
        self._item_results: defaultdict[str, deque[tuple[bool, Json]]] = defaultdict(deque)
        self._unrecorded = False
        """Whether the log has a call of a model without its answer, as logs of earlier versions may."""
        _ModelReader(self).read(recorded)
        self._read_tools(recorded)
        self._read_items(recorded)
        self._read_questions(recorded)

    def converse(self, answer: ChatAnswer, recalled: tuple[events.Recalled, ...]) -> None:
        """Add the answer to a call of `generate`."""
        self._answers.append(answer)
        self.recalled.append(recalled)

    def summarise(self, answer: ChatAnswer | None) -> None:
        """Add a summary; None if it failed, or could not be parsed."""
        self._summaries.append(answer)

    def aside(self, question: str, answer: ChatAnswer) -> None:
        """Add the answer to a question outside of the conversation."""
        self._asked[question].append(answer)

    def miss(self) -> None:
        """Note a call whose answer the log does not have."""
        self._unrecorded = True

    def _read_tools(self, recorded: Sequence[Recorded]) -> None:
        asked: dict[int, events.ToolRequested] = {}
        for entry in recorded:
            event = entry.event
            if isinstance(event, events.ToolRequested) and not event.fault:  # faulty calls are not run
                asked[entry.version] = event
            elif (outcome := outcome_of(event)) and outcome[0] in asked:
                request = asked[outcome[0]]
                self._tool_outcomes[_key(request.tool, request.arguments)].append(outcome[1:])

    def _read_items(self, recorded: Sequence[Recorded]) -> None:
        lists = dict[int, events.FanOutStarted]()
        for entry in recorded:
            match entry.event:
                case events.NodeCompleted():
                    lists = {}
                case events.FanOutStarted() as started:
                    lists[started.fan_out] = started
                case events.ItemCompleted(index=index, fan_out=fan_out, result=result):
                    self._item_results[_key_of(lists[fan_out], index)].append((True, result))
                case events.ItemFailed(index=index, fan_out=fan_out, error=error):
                    self._item_results[_key_of(lists[fan_out], index)].append((False, error))

    def _read_questions(self, recorded: Sequence[Recorded]) -> None:
        texts = {int(r.version): r.event.text for r in recorded if isinstance(r.event, events.QuestionAsked)}
        for entry in recorded:
            if isinstance(entry.event, events.QuestionAnswered):
                self._questions[texts.get(entry.event.question, "")].append(entry.event.answer)

    async def answer_to(self, question: str) -> tuple[Json] | None:
        """Return what a person or the customer answered to a question, in a tuple; None if it was not asked."""
        answers = self._questions.get(question)
        if not answers:
            await self._lacks(f"a question that was not asked in the recorded turn: {question}")
            return None
        return (answers.popleft(),)

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Return the recorded answer to a request. Raises `NotRecorded`."""
        del on_delta
        if request.question:
            if asked := self._asked.get(request.question):
                return asked.popleft()
            raise await self._not_recorded("the answer to a question outside of the conversation", request)
        if request.messages[0].content == INSTRUCTIONS:
            summary = self._summaries.popleft() if self._summaries else None
            if summary is None:
                raise NotRecorded("no summary was recorded")
            return summary
        if not self._answers:
            raise await self._not_recorded("one more answer of the model", request)
        self.recalled.popleft()
        return self._answers.popleft()

    def skip(self, request: ChatRequest) -> None:
        """Skip the answer to a request that a live model answers."""
        if not request.question and self.recalled and request.messages[0].content != INSTRUCTIONS:
            self.recalled.popleft()

    async def _lacks(self, what: str) -> None:
        """Note something that the log does not have."""
        if self.known_to is None:
            self.known_to = await self.head()
        self.unknown.append(what)

    async def _not_recorded(self, what: str, request: ChatRequest) -> NotRecorded:
        why = "its log was written before such answers were recorded" if self._unrecorded else "it was not asked then"
        asked = (request.messages[-1].content or "")[:200]
        await self._lacks(f"{what} ({why}): {asked}")
        return NotRecorded(f"not recorded: {what}; {why}")

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def acted_by(self, agent: Agent, *, delays: bool = True) -> Agent:
        """Copy an agent, with tools that return the recorded outcomes, and without approvals.

        Without `delays`, a node's next attempt begins at once: no model has to recover.
        """
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
        return replace_fields(agent, tools=tools, graph=replace_fields(graph, nodes=_nodes(graph, delays=delays)))

    def item_tool(self, tool: Tool) -> Tool:
        """Return a tool that gives the recorded results of the items of a list that is mapped over a tool."""

        async def replayed(arguments: JsonObject, _: ToolContext) -> Any:
            # Logs of earlier versions do not have the name of the tool.
            keys = (_key(tool.name, arguments), _key("", arguments))
            results = next(filter(None, map(self._item_results.get, keys)), None)
            if not results:
                await self._lacks(f"the result of {tool.name} {to_json(arguments)[:200]}")
                raise ToolError(f"not recorded: {tool.name} was not called with these arguments")
            succeeded, result = results.popleft()
            if not succeeded:
                raise UserCodeFailed(str(result))
            return result

        return replace(tool, run=replayed, timeout=3600.0)

    def _handler(self, tool: str) -> ToolHandler:
        async def replayed(arguments: JsonObject, _: ToolContext) -> Any:
            answers = self._tool_outcomes.get(_key(tool, arguments))
            if not answers:
                await self._lacks(f"the result of {tool} {to_json(arguments)[:200]}")
                raise ToolError(f"not recorded: {tool} was not called with these arguments")
            succeeded, text = answers.popleft()
            if not succeeded:
                raise ToolError(text)
            return text

        return replayed


class _ModelReader:
    """Reads the answers of models from a turn's events, node by node.

    The answer to a call of `generate` is its message, or a `ModelAnswered` with the number of the call.
    """

    def __init__(self, answers: RecordedAnswers) -> None:
        self._answers = answers
        self._plain: list[tuple[ChatAnswer, tuple[events.Recalled, ...]]] = []
        self._numbered: dict[int, ChatAnswer] = {}
        self._called: list[events.ModelCalled] = []
        """Calls whose answers have not come yet."""
        self._assembled: events.ContextAssembled | None = None
        self._failed = False

    def read(self, recorded: Sequence[Recorded]) -> None:
        """Read a turn."""
        for position, entry in enumerate(recorded):
            self._read(entry.event, recorded[position + 1 :])
        self._end_node()

    def _read(self, event: events.Event, following: Sequence[Recorded]) -> None:
        match event:
            case events.ContextAssembled():
                self._assembled = event
            case events.ModelCalled():
                self._called.append(event)
            case events.ModelFailed():
                self._called, self._failed = [], True
            case events.ModelAnswered():
                self._aside(event)
            case events.MessageAppended(role="assistant") if self._called or self._assembled:
                answer = _answer(self._called[-1] if self._called else None, event, following)
                recalled = self._assembled.recalled if self._assembled else ()
                self._plain.append((answer, recalled))
                if len(self._called) > 1:  # the log of an earlier version: an answer that was not recorded
                    self._answers.miss()
                self._answered()
            case events.HistoryCompacted(by=by, summary=summary) if by and self._called:
                self._answers.summarise(ChatAnswer(to_json(parse_written(summary)), (), "stop", by))
                self._answered()
            case events.NodeCompleted():
                if self._called or self._failed:
                    self._answers.summarise(None)
                    self._answers.miss()
                self._end_node()
            case events.ItemAdvanced() | events.ItemCompleted() | events.ItemFailed() | events.NodeFailed():
                self._end_attempt(event)

    def _aside(self, event: events.ModelAnswered) -> None:
        called = self._called[-1] if self._called else None
        answer = ChatAnswer(
            event.content,
            event.calls,
            called.finish_reason if called else "stop",
            called.model if called else "",
            _usage(called),
            refused=event.finish == "refusal",
        )
        if event.question:
            for _ in range(1 if event.fits else 2):  # an answer that does not fit is asked for twice
                self._answers.aside(event.question, answer)
        else:
            self._numbered[event.number] = answer
        self._answered()

    def _end_attempt(self, event: events.Event) -> None:
        """End an item or a failed attempt of a node. Calls of an item without an answer are of an earlier version."""
        if self._called and not isinstance(event, events.NodeFailed):
            self._answers.miss()
        self._answered()

    def _answered(self) -> None:
        self._called, self._assembled, self._failed = [], None, False

    def _end_node(self) -> None:
        """Put the node's answers in the order of its calls."""
        plain = iter(self._plain)
        for number in range(len(self._plain) + len(self._numbered)):
            if number in self._numbered:
                self._answers.converse(self._numbered[number], ())
            elif following := next(plain, None):
                self._answers.converse(*following)
        self._plain, self._numbered = [], {}
        self._called, self._assembled, self._failed = [], None, False


def _nodes(graph: Graph, *, delays: bool) -> Sequence[Node | Subgraph]:
    """Return the graph's nodes without approvals and time limits, and with or without delays between attempts."""
    return [
        replace_fields(step, graph=replace_fields(step.graph, nodes=_nodes(step.graph, delays=delays)))
        if isinstance(step, Subgraph)
        else replace(
            step,
            approval=False,
            timeout=3600.0,
            retry=step.retry if delays else replace(step.retry, first_delay=0.0),
        )
        for step in graph.nodes
    ]


def _answer(
    called: events.ModelCalled | None, said: events.MessageAppended, following: Iterable[Recorded]
) -> ChatAnswer:
    calls = []
    for entry in following:
        if not isinstance(entry.event, events.ToolRequested):
            break
        asked = entry.event
        calls.append(ToolCall(asked.call_id, asked.tool, asked.arguments, asked.written, asked.fault, asked.extra))
    return ChatAnswer(
        said.content,
        tuple(calls),
        called.finish_reason if called else "stop",
        called.model if called else "",
        _usage(called),
        extra=said.extra,
        origin=said.origin,
        omitted=called.omitted if called else (),
        refused=said.finish == "refusal",
    )


def _usage(called: events.ModelCalled | None) -> Usage | None:
    if called is None or called.estimated:
        return None
    return Usage(called.prompt_tokens, called.completion_tokens, called.cached)


def outcome_of(event: events.Event) -> tuple[int, bool, str] | None:
    """Return the call that an event is the outcome of, whether it succeeded, and the text for the model."""
    match event:
        case events.ToolSucceeded():
            return event.call, True, event.content
        case events.ToolFailed() | events.ToolOutcomeUnknown():
            return event.call, False, event.error
        case events.ApprovalDenied():
            return event.approval, False, event.reason
        case _:
            return None


def _key_of(started: events.FanOutStarted, index: int) -> str:
    return _key(started.each, started.items[index])


def _key(tool: str, arguments: Json) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"
