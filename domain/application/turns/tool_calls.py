"""Running the tool calls that a model or a node has requested."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from domain.agents.agent import Agent
from domain.agents.error_text import error_text, message_of, shortened
from domain.agents.tools import ToolContext, unreadable
from domain.application.turns.check_input import argument_error
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.token_counting import count_tokens
from domain.application.turns.turn_cause import sender_of
from domain.application.turns.user_code import Deadline, DeadlinePassed, call_user_code, run_user_code
from domain.errors import ApprovalRequired, InvalidArguments, ToolError, TurnIsOver, WaitsForPerson
from domain.json import copied, storable_text
from domain.thread.commands import CallOutcome, EndCall, RequestApproval, StartCalls
from domain.thread.events import ToolStarted
from domain.thread.repeated_calls import digest_of, repeated, with_note
from domain.thread.size_limits import cut_to_fit
from domain.thread.state import Because, Call

_log = logging.getLogger(__name__)

RESULT_CHARS_PER_TOKEN = 8
"""Characters of a tool's result that are kept for each token of the context window: twice what a prompt can show."""

MAX_NAME_CHARS = 100
"""Characters that are shown of a tool name that a model made up."""

MAX_NAMES_CHARS = 5_000
"""Characters that are shown of the list of tools."""

EARLIER_ATTEMPT = "An earlier attempt of this call was interrupted. It may have had its effect."

CUT_MARK = "\n[cut: the result was longer than can be kept]"


@dataclass
class ToolCalls:
    """The open tool calls of a turn, run by one attempt at a node."""

    node: NodeAttempt

    async def run(self) -> None:
        """Run all open tool calls at the same time, and record each start and outcome as it happens.

        With every durability, a tool runs only after its request is stored. If it may not be repeated, it runs only
        after its start is stored, too. Other starts are stored with the outcome, or a moment later without it.

        Raises:
            WaitsForPerson: a call needs approval, or its outcome is unknown and a person has to decide.
            TurnIsOver: another process has the turn.
        """
        run = self.node.run
        await run.save()
        await self._decide_interrupted()
        await self._refuse_invalid()
        unapproved = [call for call in self._open_calls("requested") if self._needs_approval(call)]
        await self._ask(unapproved, "policy")
        calls = self._open_calls("requested", "granted", "started")
        idempotency_key = all(self._policy(call) == "retry" for call in calls)
        starts = await self.node.report(
            StartCalls(run.turn_id, tuple((call.version, call.attempt + 1) for call in calls), run.number),
            durable=not idempotency_key,
            soon=idempotency_key,
        )
        started = {recorded.event.call for recorded in starts if isinstance(recorded.event, ToolStarted)}
        if len(started) < len(calls):
            raise TurnIsOver  # another process has started them
        await self._find_actor(calls)
        if len(calls) == 1:
            await self._run(calls[0])
        else:
            await NodeTasks(stop_on_error=False).run([self._run(call) for call in calls])
        if self.node.state.turn.calls:
            raise WaitsForPerson

    async def _find_actor(self, calls: Sequence[Call]) -> None:
        """Find out who sent the turn's message, if a tool may ask. The log is read once for each run of the turn."""
        run, tools = self.node.run, self.node.agent.by_name
        if run.actor is None and any(tools[c.request.name].takes_context for c in calls if c.request.name in tools):
            run.actor = await run.patiently(lambda: sender_of(run.services.repository, run.loaded))

    def _context(self, call: Call) -> ToolContext:
        run, agent, thread = self.node.run, self.node.agent, self.node.state.thread
        values = partial(copied, thread.values)
        key = f"{run.thread_id}:{call.version}"
        known = (thread.subject, run.actor or "", agent.deps)
        return ToolContext(run.thread_id, call.request.id, key, *known, _values=values, _approved=call.approved)

    def _open_calls(self, *statuses: str) -> list[Call]:
        return [call for call in self.node.state.turn.calls if call.status in statuses]

    async def _decide_interrupted(self) -> None:
        """Decide about calls that a crashed process had started. Those that may be repeated stay started."""
        left = [(call, self._policy(call)) for call in self._open_calls("started")]
        await self._ask([call for call, policy in left if policy == "ask_person"], "outcome_unknown")
        for call, policy in left:
            if policy == "ask_model":
                await self._end(call, "unknown", "It is not known whether this call had an effect. Check, or ask.")

    async def _refuse_invalid(self) -> None:
        """End the calls that a person would have to approve and whose arguments do not fit: no person is asked.

        Calls that need no approval are checked when they run.
        """
        for call in self._open_calls("requested"):
            tool = self.node.agent.by_name.get(call.request.name)
            if tool is None or call.request.fault or tool.approval is False:
                continue
            error = argument_error(tool, call.request.arguments)
            if error is not None:
                await self._end(call, "failed", self._error_shown(error), not_run=True)

    async def _ask(self, calls: Sequence[Call], because: Because) -> None:
        if calls:
            run, versions = self.node.run, tuple(call.version for call in calls)
            await self.node.report(RequestApproval(run.turn_id, versions, because, run.number))

    def _needs_approval(self, call: Call) -> bool:
        """Return whether a person has to approve the call. If the tool's own check fails, a person has to."""
        tool = self.node.agent.by_name.get(call.request.name)
        if call.request.fault:
            return False
        try:
            return tool is not None and call_user_code(tool.needs_approval, call.request.arguments)
        except Exception:  # noqa: BLE001  (the user's code, on arguments that a model made up)
            return True

    def _policy(self, call: Call) -> str:
        if call.request.fault:
            return "retry"  # it was not run
        tool = self.node.agent.by_name.get(call.request.name)
        return tool.after_crash if tool else "ask_model"

    async def _run(self, call: Call) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            outcome, text = await self._outcome(call)
        except ApprovalRequired as asked:
            await self._suspend(call, asked.reason)
            return
        await self._end(call, outcome, text, int((clock() - started) * 1000))

    async def _suspend(self, call: Call, reason: str) -> None:
        """Ask a person whether a call may go on that has been started, and asked for approval itself."""
        run = self.node.run
        if not await self.node.report(RequestApproval(run.turn_id, (call.version,), "policy", run.number, reason)):
            raise TurnIsOver  # another process has found an outcome

    async def _outcome(self, call: Call) -> tuple[CallOutcome, str]:
        """Run a call and return its result for the model; errors are results, too. Raises `ApprovalRequired`."""
        run, tool, fault = self.node.run, self.node.agent.by_name.get(call.request.name), call.request.fault
        if tool is None:
            return "failed", unknown_tool(self.node.agent, call.request.name)
        if fault:
            return "failed", unreadable(tool, fault)
        context = self._context(call)
        arguments, name = copied(call.request.arguments), f"tool {tool.name!r} of {run.place}"
        try:
            result = await run_user_code(lambda: tool.run(arguments, context), name, Deadline(tool.timeout), inner=True)
        except DeadlinePassed:
            late = f"{tool.name} did not answer within {tool.timeout:g} s"
            return ("failed", f"{late}.") if tool.idempotent else ("unknown", f"{late}. It may have had its effect.")
        except ApprovalRequired:
            raise
        except Exception as error:  # noqa: BLE001  (a tool may raise anything; the model sees it and can correct the call)
            _log.info("%s failed: %s", name, error_text(error))
            interrupted = call.status == "started" or call.because == "outcome_unknown"
            if isinstance(error, InvalidArguments) and interrupted:  # another version of the tool had accepted them
                return "unknown", f"{self._error_shown(error)}\n{EARLIER_ATTEMPT}"
            return "failed", self._error_shown(error)
        if isinstance(result, str):
            return "succeeded", str(result)
        return "failed", f"{tool.name} gave {type(result).__name__} where text was expected"

    def _error_shown(self, error: Exception) -> str:
        """Return what the model reads about an error of a tool."""
        limit = self._max_result_chars + 1
        return message_of(error, limit) if isinstance(error, ToolError) else error_text(error, limit)

    async def _end(
        self, call: Call, outcome: CallOutcome, content: str, duration_ms: int = 0, *, not_run: bool = False
    ) -> None:
        run, limit = self.node.run, self._max_result_chars
        text = cut_to_fit(storable_text(content if len(content) <= limit else content[:limit] + CUT_MARK), CUT_MARK)
        text = self._with_note(call, text)
        tokens = await count_tokens(run.services.tokens, text)
        report = EndCall(run.turn_id, call.version, outcome, text, tokens, duration_ms, run.number, not_run)
        last = len(self.node.state.turn.calls) == 1  # then the node usually ends, and its report follows at once
        if not await self.node.report(report, durable=False, soon=last):
            raise TurnIsOver  # another process has found an outcome

    def _with_note(self, call: Call, text: str) -> str:
        """Add a note for the model if it keeps repeating the same call."""
        most, turn = self.node.agent.graph.repeat_limit, self.node.state.turn
        if most is None:
            return text
        digest = digest_of(call.request, text)
        again = repeated(turn.repeats, digest, turn.step)[-1].count
        if again < max(most // 4, 2):
            return text
        return with_note(text, again, faulty=bool(call.request.fault))

    @property
    def _max_result_chars(self) -> int:
        return self.node.run.services.context_window * RESULT_CHARS_PER_TOKEN


def unknown_tool(agent: Agent, name: str) -> str:
    """Return an error text for a tool that does not exist; "" for one that exists."""
    if name in agent.by_name:
        return ""
    known = ", ".join(agent.by_name) or "none"
    missing = f"There is no tool {shortened(name, MAX_NAME_CHARS)!r}." if name else "The call does not name a tool."
    return f"{missing} The tools are: {shortened(known, MAX_NAMES_CHARS)}."
