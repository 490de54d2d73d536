"""A node at work: the `TurnContext` that its function is given."""

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.agent import Agent
from domain.application.execute import Request, execute
from domain.application.journal import Journal, Loaded
from domain.application.signals import Delta, Signals
from domain.chat import ChatAnswer, ChatModel, ChatRequest
from domain.codec import Metadata, Recorded, to_json
from domain.commands import CallOutcome, Command, EndCall, StartCalls
from domain.compaction import compacted
from domain.context import Context, assemble
from domain.errors import InvalidInput, ToolError, TurnIsOver
from domain.events import MessageAppended, ModelCalled, NodeFact, StateUpdated, ToolRequested, ToolStarted
from domain.ids import ThreadId, TurnId
from domain.json import Json, storable_text
from domain.ports import TokenCounter
from domain.state import Call, Running
from domain.tools import ToolContext

ANSWER_RESERVE = 0.15
"""The share of the context window that is kept free for the answer."""

RESULT_SHARE = 8
"""Characters of a tool's result that are kept, for each token of the context window: twice what could be shown."""

CUT = "\n[cut: the result was longer than can be kept]"


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
    _shown: tuple[Loaded, Running] | None = field(init=False, default=None)
    _requests: int = field(init=False, default=0)
    _lock: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Remember which turn this is about: the thread may move on."""
        if not isinstance(self.loaded.state, Running):
            raise TurnIsOver
        self._turn_id = TurnId(self.loaded.state.turn.turn_id)

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.loaded.thread_id

    @property
    def state(self) -> Running:
        """The state now, with values of its own: a node may do with them what it likes.

        Raises `TurnIsOver` if the turn has ended under this node's hands.
        """
        if self._shown is None or self._shown[0] is not self.loaded:
            state = self.loaded.state
            if not isinstance(state, Running) or state.turn.turn_id != self._turn_id:
                raise TurnIsOver
            thread = replace(state.thread, values=deepcopy(state.thread.values))
            self._shown = (self.loaded, replace(state, thread=thread))
        return self._shown[1]

    @property
    def user_input(self) -> str:
        """What the user said to start this turn."""
        asked = (m.content for m in reversed(self.state.thread.window) if m.role == "user")
        return next(asked, None) or ""

    def say(self, content: str) -> MessageAppended:
        """Make the fact that the agent says something."""
        return MessageAppended("assistant", content, self._count(content))

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeFact]:
        """Make the facts that the agent wants a tool to run, without a model."""
        call = ToolRequested(f"{tool}-{self.loaded.head.version + self._requests}", tool, arguments)
        self._requests += 1
        return (MessageAppended("assistant", None, self._count(to_json(call))), call)

    def update(self, **values: Json) -> StateUpdated:
        """Make the fact that some of the thread's values change."""
        return StateUpdated(values)

    async def generate(self, instructions: str | None = None) -> Sequence[NodeFact]:
        """Call the model with the conversation so far and return what it says and asks for."""
        if self.state.turn.calls:
            raise InvalidInput("calls", "run the open calls before the model is asked again")
        system = self.agent.instructions if instructions is None else instructions
        specs = tuple(tool.spec for tool in self.agent.tools)
        overhead = self._count(system) + self._count(to_json(specs))
        limit = int(self.means.context_window * (1 - ANSWER_RESERVE))
        context = assemble(self.state, system, overhead=overhead, limit=limit, count=self._count)
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
        begun = await self._record(StartCalls(self._turn_id, tuple(call.version for call in requested)))
        started = {recorded.event.call for recorded in begun if isinstance(recorded.event, ToolStarted)}
        if len(started) < len(requested):
            raise TurnIsOver  # another process has started them
        try:
            async with asyncio.TaskGroup() as group:
                for call in (*repeatable, *requested):
                    group.create_task(self._run(call))
        except ExceptionGroup as failed:  # tools' own errors are outcomes; what is left is ours, such as a lost store
            raise failed.exceptions[0] from failed

    async def compact(self) -> Sequence[NodeFact]:
        """Return the fact that older messages leave the live window for a summary; nothing if there are none."""
        fact = compacted(self.state.thread, self.means.context_window, self._count)
        return (fact,) if fact else ()

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
        outcome, told = await self._outcome(call)
        await self._end(call, outcome, told, int((clock() - started) * 1000))

    async def _outcome(self, call: Call) -> tuple[CallOutcome, str]:
        """Run a call; whatever comes of it is something to tell the model."""
        tool = self.agent.by_name.get(call.request.name)
        if tool is None:
            known = ", ".join(self.agent.by_name) or "none"
            return "failed", f"There is no tool {call.request.name!r}. The tools are: {known}."
        context = ToolContext(self.thread_id, call.request.id, f"{self.thread_id}:{call.version}")
        limit = asyncio.timeout(tool.timeout)
        try:
            async with limit:
                result = await tool.run(deepcopy(call.request.arguments), context)
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            return "failed", f"{tool.name} cancelled itself: {error}"
        except Exception as error:  # noqa: BLE001  (a tool may raise anything; the model is told and can mend it)
            if not (isinstance(error, TimeoutError) and limit.expired()):
                return "failed", _told(error)
            late = f"{tool.name} did not answer within {tool.timeout:g} s"
            return ("failed", f"{late}.") if tool.idempotent else ("unknown", f"{late}. It may have had its effect.")
        if isinstance(result, str):
            return "succeeded", result
        return "failed", f"{tool.name} gave {type(result).__name__} where text was expected"

    def _may_repeat(self, call: Call) -> bool:
        tool = self.agent.by_name.get(call.request.name)
        return tool is not None and tool.idempotent

    async def _end(self, call: Call, outcome: CallOutcome, content: str, duration_ms: int = 0) -> None:
        limit = self.means.context_window * RESULT_SHARE
        told = storable_text(content if len(content) <= limit else content[:limit] + CUT)
        report = EndCall(self._turn_id, call.version, outcome, told, self._count(told), duration_ms)
        if not await self._record(report):
            raise TurnIsOver  # another process has found an outcome

    async def _record(self, command: Command) -> Sequence[Recorded]:
        """Store a report at once. One after the other: a thread has one order."""
        async with self._lock:
            done = await execute(
                self.means.journal,
                Request(self.thread_id, lambda _: (command,), self.metadata, self.loaded.tenant, known=self.loaded),
            )
            self.loaded = done.loaded
            self.means.signals.send(self.thread_id, done.events)
            return done.events

    def _count(self, text: str) -> int:
        return self.means.tokens.count(text)


def cancelled_from_outside() -> bool:
    """Say whether a `CancelledError` is meant for this task: a node or a tool may have cancelled something itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _told(error: Exception) -> str:
    if isinstance(error, ToolError):
        return str(error)
    return f"{type(error).__name__}: {error}"
