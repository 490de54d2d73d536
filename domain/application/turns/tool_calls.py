"""Running the tool calls that a model or a node has requested."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from domain.application.turns.check_input import argument_error
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.token_counting import count_tokens
from domain.application.turns.tool_run import CallResult, ToolRun, error_shown
from domain.application.turns.tool_texts import CUT_MARK, OUTCOME_UNKNOWN
from domain.application.turns.turn_cause import sender_of
from domain.application.turns.user_code import call_user_code
from domain.errors import AnswerRequired, ApprovalRequired, TurnIsOver, WaitsForPerson
from domain.json import storable_text
from domain.thread.commands import AskQuestion, EndCall, RequestApproval, StartCalls
from domain.thread.events import ToolStarted
from domain.thread.repeated_calls import digest_of, repeated, with_note
from domain.thread.size_limits import cut_to_fit
from domain.thread.state import Call

RESULT_CHARS_PER_TOKEN = 8
"""Characters of a tool's result that are kept for each token of the context window: twice what a prompt can show."""


@dataclass
class ToolCalls:
    """The open tool calls of a turn, run by one attempt at a node."""

    node: NodeAttempt
    _retries: dict[str, int] = field(init=False, default_factory=dict)
    """How often each tool has asked the model to call it again in this turn, if one has since this began."""

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

    def _open_calls(self, *statuses: str) -> list[Call]:
        return [call for call in self.node.state.turn.calls if call.status in statuses]

    async def _decide_interrupted(self) -> None:
        """Decide about calls that a crashed process had started. Those that may be repeated stay started."""
        left = [(call, self._policy(call)) for call in self._open_calls("started")]
        await self._ask([call for call, policy in left if policy == "ask_person"], "outcome_unknown")
        for call, policy in left:
            if policy == "ask_model":
                await self._end(call, CallResult("unknown", OUTCOME_UNKNOWN))

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
                text = error_shown(error, self._max_result_chars + 1)
                await self._end(call, CallResult("failed", text), not_run=True)

    async def _ask(self, calls: Sequence[Call], because: Literal["policy", "outcome_unknown"]) -> None:
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
        one = ToolRun(self.node, call, self._max_result_chars + 1, self._count_retry)
        try:
            result = await one.run(partial(self._start_again, call))
        except ApprovalRequired as asked:
            await self._suspend(call, asked)
            return
        await self._end(call, result, int((clock() - started) * 1000))

    async def _start_again(self, call: Call, attempt: int) -> None:
        """Record a further attempt of a call that may be repeated."""
        run = self.node.run
        starts = await self.node.report(
            StartCalls(run.turn_id, ((call.version, attempt),), run.number), durable=False, soon=True
        )
        if not any(isinstance(recorded.event, ToolStarted) for recorded in starts):
            raise TurnIsOver  # the turn is cancelled, or another process has it

    def _count_retry(self, tool: str) -> int:
        """Count a `Retry` of a tool, and return how many the turn had before. Calls run at the same time."""
        before = self._retries.get(tool)
        if before is None:
            before = dict(self.node.state.turn.tool_retries).get(tool, 0)
        self._retries[tool] = before + 1
        return before

    async def _suspend(self, call: Call, asked: ApprovalRequired) -> None:
        """Ask a person for a call that has been started: whether it may go on, or what the tool wants to know."""
        run = self.node.run
        report: RequestApproval | AskQuestion = RequestApproval(
            run.turn_id, (call.version,), "policy", run.number, asked.reason
        )
        if isinstance(asked, AnswerRequired):
            report = AskQuestion(
                *(run.turn_id, self.node.state.turn.step, storable_text(asked.question), 0, "person"),
                *(asked.schema, asked.number, run.number, call.version),
            )
        if not await self.node.report(report):
            raise TurnIsOver  # another process has found an outcome

    async def _end(self, call: Call, result: CallResult, duration_ms: int = 0, *, not_run: bool = False) -> None:
        run, limit, content = self.node.run, self._max_result_chars, result.text
        text = cut_to_fit(storable_text(content if len(content) <= limit else content[:limit] + CUT_MARK), CUT_MARK)
        text = self._with_note(call, text)
        report = EndCall(
            run.turn_id,
            call.version,
            result.outcome,
            text,
            await count_tokens(run.services.tokens, text),
            duration_ms,
            run.number,
            not_run,
            result.asks_again,
        )
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
