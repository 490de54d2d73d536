"""A node at work: the `TurnContext` that its function is given."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.agent import Agent
from domain.application.execute import Request, execute
from domain.application.journal import Journal, Loaded
from domain.application.signals import Delta, Signals
from domain.chat import ChatAnswer, ChatModel, ChatRequest
from domain.codec import Metadata, to_json
from domain.commands import CallOutcome, Command, EndCall, StartCalls
from domain.compaction import leaving, summarise
from domain.context import Context, assemble
from domain.errors import ToolError, TurnIsOver
from domain.events import HistoryCompacted, MessageAppended, ModelCalled, NodeFact, StateUpdated, ToolRequested
from domain.ids import ThreadId, TurnId
from domain.json import Json, storable_text
from domain.ports import TokenCounter
from domain.state import Call, Running
from domain.tools import Tool, ToolContext

ANSWER_RESERVE = 0.15
"""The share of the context window that is kept free for the answer."""

RESULT_LIMIT = 1_000_000
"""Characters of a tool's result that are kept."""


@dataclass(frozen=True)
class Means:
    """What nodes act with."""

    journal: Journal
    model: ChatModel
    tokens: TokenCounter
    signals: Signals
    context_window: int


@dataclass
class Work:
    """One attempt at one node. Implements `domain.agent.TurnContext`."""

    means: Means
    agent: Agent
    loaded: Loaded
    metadata: Metadata
    _turn_id: TurnId = field(init=False)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Remember which turn this is about: the thread may move on."""
        self._turn_id = TurnId(self.state.turn.turn_id)

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.loaded.thread_id

    @property
    def state(self) -> Running:
        """The state now. Raises `TurnIsOver` if the turn has ended under this node's hands."""
        if not isinstance(self.loaded.state, Running):
            raise TurnIsOver
        return self.loaded.state

    @property
    def user_input(self) -> str:
        """What the user said to start this turn."""
        asked = (m.content for m in reversed(self.state.thread.window) if m.role == "user")
        return next(asked, None) or ""

    def say(self, content: str) -> MessageAppended:
        """Make the fact that the agent says something."""
        return MessageAppended("assistant", content, self._count(content))

    def request(self, tool: str, **arguments: Json) -> Sequence[NodeFact]:
        """Make the facts that the agent wants a tool to run, without a model."""
        call = ToolRequested(f"{tool}-{self.loaded.head.version}", tool, arguments)
        return (MessageAppended("assistant", None, self._count(to_json(call))), call)

    def update(self, **values: Json) -> StateUpdated:
        """Make the fact that some of the thread's values change."""
        return StateUpdated(values)

    async def generate(self, instructions: str | None = None) -> Sequence[NodeFact]:
        """Call the model with the conversation so far and return what it says and asks for."""
        system = self.agent.instructions if instructions is None else instructions
        specs = tuple(tool.spec for tool in self.agent.tools)
        overhead = self._count(system) + self._count(to_json(specs))
        limit = int(self.means.context_window * (1 - ANSWER_RESERVE))
        context = assemble(self.state, system, overhead=overhead, limit=limit)
        request = ChatRequest(
            context.messages, specs, self.agent.model, self.agent.temperature, thread_id=self.thread_id
        )
        clock = asyncio.get_running_loop().time
        started = clock()
        answer = await self._complete(request)
        return self._facts(context, answer, int((clock() - started) * 1000))

    async def run_tools(self) -> None:
        """Run every open tool call, at the same time, recording each start and outcome as it happens."""
        left_by_a_crash = [call for call in self.state.turn.calls if call.status == "started"]
        repeatable = [call for call in left_by_a_crash if self._may_repeat(call)]
        for call in left_by_a_crash:
            if call not in repeatable:
                await self._end(call, "unknown", "It is not known whether this call had an effect. Check, or ask.")
        requested = [call for call in self.state.turn.calls if call.status == "requested"]
        await self._record(StartCalls(self._turn_id, tuple(call.version for call in requested)))
        try:
            async with asyncio.TaskGroup() as group:
                for call in (*repeatable, *requested):
                    group.create_task(self._run(call))
        except ExceptionGroup as failed:  # tools' own errors are outcomes; what is left is ours, such as a lost store
            raise failed.exceptions[0] from failed

    async def compact(self) -> Sequence[NodeFact]:
        """Return the fact that older messages leave the live window for a summary; nothing if there are none."""
        thread = self.state.thread
        messages = leaving(thread.window, self.means.context_window)
        if not messages:
            return ()
        through, summary = summarise(thread, messages, self.means.context_window)
        return (HistoryCompacted(through, summary, self._count(summary)),)

    async def _complete(self, request: ChatRequest) -> ChatAnswer:
        signals, thread_id = self.means.signals, self.thread_id
        return await self.means.model.complete(request, lambda text: signals.send(thread_id, (Delta(text),)))

    def _facts(self, context: Context, answer: ChatAnswer, duration_ms: int) -> Sequence[NodeFact]:
        asked = to_json(answer.tool_calls) if answer.tool_calls else ""
        size = self._count((answer.content or "") + asked)
        usage = answer.usage
        called = ModelCalled(
            model=answer.model,
            prompt_tokens=usage.prompt_tokens if usage else context.assembled.tokens,
            completion_tokens=usage.completion_tokens if usage else size,
            duration_ms=duration_ms,
            finish_reason=answer.finish_reason,
            estimated=usage is None,
        )
        calls = (ToolRequested(call.id, call.name, call.arguments) for call in answer.tool_calls)
        return (context.assembled, called, MessageAppended("assistant", answer.content, size), *calls)

    async def _run(self, call: Call) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            result = await self._call(self._tool(call), call)
        except Exception as error:  # noqa: BLE001  (a tool may raise anything; the model is told and can mend it)
            await self._end(call, "failed", _told(error), int((clock() - started) * 1000))
        else:
            await self._end(call, "succeeded", result, int((clock() - started) * 1000))

    async def _call(self, tool: Tool, call: Call) -> str:
        context = ToolContext(self.thread_id, call.request.id, f"{self.thread_id}:{call.version}")
        try:
            async with asyncio.timeout(tool.timeout):
                return await tool.run(call.request.arguments, context)
        except TimeoutError as error:
            raise ToolError(f"{tool.name} did not answer within {tool.timeout:g} s") from error

    def _tool(self, call: Call) -> Tool:
        tool = self.agent.by_name.get(call.request.name)
        if tool is None:
            known = ", ".join(self.agent.by_name) or "none"
            raise ToolError(f"There is no tool {call.request.name!r}. The tools are: {known}.")
        return tool

    def _may_repeat(self, call: Call) -> bool:
        tool = self.agent.by_name.get(call.request.name)
        return tool is not None and tool.idempotent

    async def _end(self, call: Call, outcome: CallOutcome, content: str, duration_ms: int = 0) -> None:
        told = storable_text(content)[:RESULT_LIMIT]
        await self._record(EndCall(self._turn_id, call.version, outcome, told, self._count(told), duration_ms))

    async def _record(self, command: Command) -> None:
        """Store a report at once. One after the other: a thread has one order."""
        async with self._lock:
            done = await execute(
                self.means.journal,
                Request(self.thread_id, lambda _: (command,), self.metadata, self.loaded.tenant, known=self.loaded),
            )
            self.loaded = done.loaded
            self.means.signals.send(self.thread_id, done.events)

    def _count(self, text: str) -> int:
        return self.means.tokens.count(text)


def _told(error: Exception) -> str:
    if isinstance(error, ToolError):
        return str(error)
    return f"{type(error).__name__}: {error}"
