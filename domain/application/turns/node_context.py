"""A node at work: the `TurnContext` that its function is given."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from domain.agents.agent import RETRY_ITEMS, Agent, Each
from domain.agents.error_text import error_text, message_of, shortened
from domain.agents.graph import Retry
from domain.agents.tools import ToolContext, unreadable
from domain.application.streaming.broadcast import Delta
from domain.application.thread_repository import LoadedThread
from domain.application.turns.endpoint_data import bounded
from domain.application.turns.fan_out import run_fan_out
from domain.application.turns.model_calls import ModelCall, PreparedPrompt
from domain.application.turns.prompt_builder import PromptBuilder
from domain.application.turns.run import TurnRun, TurnServices
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.token_counting import count_tokens, in_thread_if_long
from domain.application.turns.user_code import Deadline, DeadlinePassed, call_user_code, run_user_code
from domain.errors import BudgetExhausted, InvalidInput, PromptTooLarge, ToolError, TurnIsOver, WaitsForPerson
from domain.ids import ThreadId
from domain.json import Json, copied, storable_text
from domain.models.answers import finish_of
from domain.models.chat import MESSAGE_OVERHEAD, ChatMessage, ModelError
from domain.prompt.compaction import leaving, remembered
from domain.prompt.summary import INSTRUCTIONS, parse_summary, summary_request
from domain.thread.codec import Recorded, to_json
from domain.thread.commands import AskPerson, CallOutcome, EndCall, Report, StartCalls
from domain.thread.events import MessageAppended, NodeEvent, StateUpdated, ToolRequested, ToolStarted
from domain.thread.repeated_calls import digest_of, repeated, with_note
from domain.thread.size_limits import MAX_ARGUMENTS, check_json_size, check_message_text, cut_to_fit
from domain.thread.state import Because, Call, Message, Running

_log = logging.getLogger(__name__)

RESULT_SHARE = 8
"""Characters of a tool's result that are kept, for each token of the context window: twice what could be shown."""

NAME_LENGTH = 100
"""Characters that are shown of a tool's name which a model made up."""

KNOWN_LENGTH = 5_000
"""Characters that are shown of the names of all tools."""

CUT = "\n[cut: the result was longer than can be kept]"


@dataclass
class NodeContext:
    """One attempt at one node. Implements `domain.agents.agent.TurnContext`."""

    run: TurnRun
    agent: Agent
    written: str = field(init=False, default="")
    """What the model has written so far, in the call that runs."""
    _shown: tuple[LoadedThread, Running] | None = field(init=False, default=None)
    _requests: int = field(init=False, default=0)
    _over: bool = field(init=False, default=False)

    @property
    def services(self) -> TurnServices:
        """What the turn is run with."""
        return self.run.services

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.run.thread_id

    @property
    def state(self) -> Running:
        """The state now, with values of its own: a node may do with them what it likes.

        Raises `TurnIsOver` if the turn has ended, or was taken over, under this node's hands.
        """
        if self._over:
            raise TurnIsOver
        loaded = self.run.loaded
        if self._shown is None or self._shown[0] is not loaded:
            if self.run.turn is None or not isinstance(loaded.state, Running):
                raise TurnIsOver
            thread = replace(loaded.state.thread, values=copied(loaded.state.thread.values))
            self._shown = (loaded, replace(loaded.state, thread=thread))
        return self._shown[1]

    def close(self) -> None:
        """End the attempt: what its node may still do, if it was abandoned, has no effect from now on."""
        self._over = True

    async def report(self, command: Report, *, durable: bool = True, soon: bool = False) -> Sequence[Recorded]:
        """Report for the node. Raises `TurnIsOver` if the attempt is over; see `TurnRun.report`."""
        if self._over:
            raise TurnIsOver
        return await self.run.report(command, durable=durable, soon=soon)

    @property
    def user_input(self) -> str:
        """What the user said to start this turn."""
        asked = (m.content for m in reversed(self.state.thread.window) if m.role == "user")
        return next(asked, None) or ""

    def say(self, content: str) -> MessageAppended:
        """Make the fact that the agent says something."""
        check_message_text(content, "say")
        return MessageAppended("assistant", content, self._count(content))

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeEvent]:
        """Make the facts that the agent wants a tool to run, without a model."""
        check_json_size(arguments, "request.arguments", MAX_ARGUMENTS)
        call = ToolRequested(f"{tool}-{self.run.loaded.head.version + self._requests}", tool, arguments)
        self._requests += 1
        return (MessageAppended("assistant", None, self._count(to_json(call))), call)

    def update(self, **values: Json) -> StateUpdated:
        """Make the fact that some of the thread's values change."""
        return StateUpdated(values)

    async def generate(self, instructions: str | None = None) -> Sequence[NodeEvent]:
        """Call the model with the conversation so far and return what it says and asks for."""
        if self.state.turn.calls:
            raise InvalidInput("calls", "run the open calls before the model is asked again")
        self.written = ""
        thread = self.run.loaded.state  # not the node's own copy: what that does with its values has no effect
        if not isinstance(thread, Running):
            raise TurnIsOver
        conversation = PromptBuilder(self.services, self.agent, self.thread_id, thread)
        told = self.agent.instructions if instructions is None else instructions
        await self.run.patiently(lambda: conversation.begin(told))
        specs = tuple(tool.spec for tool in self.agent.tools)
        made = await ModelCall(self, conversation.build, specs, self._hear, self._retract).answer()
        assembled = made.prompt.assembled
        answer, extra = await bounded(made.answer, self.services.context_window, self.services.tokens)
        calls = (
            ToolRequested(
                *(call.id, call.name, call.arguments, call.written),
                call.fault or self._no_such_tool(call.name),
                call.extra,
            )
            for call in answer.tool_calls
        )
        origin = answer.origin if answer.extra or any(call.extra for call in answer.tool_calls) else ""
        said = MessageAppended(
            "assistant",
            answer.content,
            made.tokens + extra,
            finish=finish_of(answer),
            extra=answer.extra,
            origin=origin,
        )
        return (*([assembled] if assembled else []), made.called, said, *calls)

    async def run_tools(self) -> None:
        """Run every open tool call, at the same time, recording each start and outcome as it happens.

        Whatever the turn's durability: no tool runs before its request is stored; nor, if it may not be repeated,
        before its start is. That of others is stored with the outcome, or in a moment if there is none by then.
        """
        if self._over:
            raise TurnIsOver
        await self.run.save()
        await self._settle_what_a_crash_left()
        asking = [call for call in self._calls("requested") if self._needs_approval(call)]
        await self._ask(asking, "policy")
        calls = self._calls("requested", "granted", "started")
        repeatable = all(self._policy(call) == "retry" for call in calls)
        begun = await self.report(
            StartCalls(self.run.turn_id, tuple((call.version, call.attempt + 1) for call in calls), self.run.number),
            durable=not repeatable,
            soon=repeatable,
        )
        started = {recorded.event.call for recorded in begun if isinstance(recorded.event, ToolStarted)}
        if len(started) < len(calls):
            raise TurnIsOver  # another process has started them
        if len(calls) == 1:
            await self._run(calls[0])
        else:
            await NodeTasks(stop_on_error=False).run([self._run(call) for call in calls])
        if self.state.turn.calls:
            raise WaitsForPerson

    def _calls(self, *statuses: str) -> list[Call]:
        return [call for call in self.state.turn.calls if call.status in statuses]

    async def _settle_what_a_crash_left(self) -> None:
        """Decide about calls that were started by a process that is gone. Those that may be repeated stay started."""
        left = [(call, self._policy(call)) for call in self._calls("started")]
        await self._ask([call for call, policy in left if policy == "ask_person"], "outcome_unknown")
        for call, policy in left:
            if policy == "ask_model":
                await self._end(call, "unknown", "It is not known whether this call had an effect. Check, or ask.")

    async def _ask(self, calls: Sequence[Call], because: Because) -> None:
        if calls:
            versions = tuple(call.version for call in calls)
            await self.report(AskPerson(self.run.turn_id, versions, because, self.run.number))

    def _needs_approval(self, call: Call) -> bool:
        """Say whether a person has to agree. What cannot be judged is asked about."""
        tool = self.agent.by_name.get(call.request.name)
        if call.request.fault:
            return False
        try:
            return tool is not None and call_user_code(tool.needs_approval, call.request.arguments)
        except Exception:  # noqa: BLE001  (the user's code, on arguments that a model made up)
            return True

    async def map(
        self, items: Sequence[Json], each: Each, *, at_once: int = 8, retry: Retry = RETRY_ITEMS
    ) -> Sequence[Json]:
        """Work on each of some items; see `domain/application/turns/fan_out.py`."""
        return await run_fan_out(self, items, each, at_once=at_once, retry=retry)

    async def compact(self) -> Sequence[NodeEvent]:
        """Return the fact that older messages leave the live window for a summary; nothing if there are none.

        A model writes the summary. Where none can, nothing leaves: prompts are cut, and the next turn tries again.
        """
        window = self.services.context_window
        leaves = leaving(self.state.thread.window, window)
        if not leaves:
            return ()
        told: dict[str, Sequence[Message]] = {}
        try:
            made = await ModelCall(self, partial(self._to_remember, leaves, told)).answer()
        except (ModelError, BudgetExhausted, PromptTooLarge) as error:
            _log.warning("The history of %s is not summarised now, but later: %s", self.thread_id, error)
            return ()
        memory = parse_summary(made.answer.content or "")
        leaves = told[made.prompt.messages[-1].content or ""]
        fact = None
        if memory:
            remember = partial(remembered, leaves, memory, made.called.model, window, self._count)
            fact = await in_thread_if_long(remember, len(made.answer.content or ""))
        if fact is None:
            _log.warning("%s gave no summary of %s that can be read", made.called.model, self.thread_id)
            return (made.called,)
        return (made.called, fact)

    async def _to_remember(
        self, leaves: Sequence[Message], told: dict[str, Sequence[Message]], limit: int
    ) -> PreparedPrompt:
        """Make the prompt that asks for a summary, and note which messages it tells of."""
        summary = self.state.thread.summary
        fixed = self._count(INSTRUCTIONS) + 2 * MESSAGE_OVERHEAD
        ask = partial(summary_request, summary.text if summary else "", leaves, limit - fixed, self._count)
        # Each message is counted, perhaps many times.
        text, messages = await in_thread_if_long(ask, sum(len(message.content or "") for message in leaves))
        told[text] = messages
        asked = (ChatMessage("system", INSTRUCTIONS), ChatMessage("user", text))
        return PreparedPrompt(asked, fixed + await count_tokens(self.services.tokens, text))

    def _hear(self, text: str) -> None:
        """Pass on what the model is writing."""
        if self._over:
            return
        self.services.broadcast.speak(self.thread_id, Delta(self.run.durable_version, len(self.written), text))
        self.written += text

    def _retract(self) -> None:
        """Take back what a model has written that then did not answer."""
        if self._over:
            return
        self.written = ""
        self.services.broadcast.retract(self.thread_id, self.run.durable_version)

    async def _run(self, call: Call) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        outcome, told = await self._outcome(call)
        await self._end(call, outcome, told, int((clock() - started) * 1000))

    async def _outcome(self, call: Call) -> tuple[CallOutcome, str]:
        """Run a call; whatever comes of it is something to tell the model."""
        tool, fault = self.agent.by_name.get(call.request.name), call.request.fault
        if tool is None:
            return "failed", self._no_such_tool(call.request.name)
        if fault:
            return "failed", unreadable(tool, fault)
        context = ToolContext(self.thread_id, call.request.id, f"{self.thread_id}:{call.version}")
        arguments, name = copied(call.request.arguments), f"tool {tool.name!r} of {self.run.place}"
        try:
            result = await run_user_code(lambda: tool.run(arguments, context), name, Deadline(tool.timeout), inner=True)
        except DeadlinePassed:
            late = f"{tool.name} did not answer within {tool.timeout:g} s"
            return ("failed", f"{late}.") if tool.idempotent else ("unknown", f"{late}. It may have had its effect.")
        except Exception as error:  # noqa: BLE001  (a tool may raise anything; the model is told and can mend it)
            _log.info("%s failed: %s", name, error_text(error))
            limit = self._longest_result + 1
            return "failed", message_of(error, limit) if isinstance(error, ToolError) else error_text(error, limit)
        if isinstance(result, str):
            return "succeeded", str(result)
        return "failed", f"{tool.name} gave {type(result).__name__} where text was expected"

    def _no_such_tool(self, name: str) -> str:
        """Say that no tool has this name; nothing if one has."""
        if name in self.agent.by_name:
            return ""
        known = ", ".join(self.agent.by_name) or "none"
        missing = f"There is no tool {shortened(name, NAME_LENGTH)!r}." if name else "The call does not name a tool."
        return f"{missing} The tools are: {shortened(known, KNOWN_LENGTH)}."

    def _policy(self, call: Call) -> str:
        if call.request.fault:
            return "retry"  # it was not run
        tool = self.agent.by_name.get(call.request.name)
        return tool.after_crash if tool else "ask_model"

    async def _end(self, call: Call, outcome: CallOutcome, content: str, duration_ms: int = 0) -> None:
        limit = self._longest_result
        told = cut_to_fit(storable_text(content if len(content) <= limit else content[:limit] + CUT), CUT)
        told = self._with_note(call, told)
        tokens = await count_tokens(self.services.tokens, told)
        report = EndCall(self.run.turn_id, call.version, outcome, told, tokens, duration_ms, self.run.number)
        last = len(self.state.turn.calls) == 1  # then the node is done, mostly, and reports that at once
        if not await self.report(report, durable=False, soon=last):
            raise TurnIsOver  # another process has found an outcome

    def _with_note(self, call: Call, told: str) -> str:
        """Tell the model, too, if it asks for the same thing again and again."""
        most, turn = self.agent.graph.repeat_limit, self.state.turn
        if most is None:
            return told
        digest = digest_of(call.request, told)
        again = repeated(turn.repeats, digest, turn.step)[-1].count
        if again < max(most // 4, 2):
            return told
        return with_note(told, again, faulty=bool(call.request.fault))

    @property
    def _longest_result(self) -> int:
        return self.services.context_window * RESULT_SHARE

    def _count(self, text: str) -> int:
        return self.services.tokens.count(text)
