"""Running one tool call: its context, its attempts, and what the model reads about its outcome."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from msgspec import Struct

from domain.agents.error_text import error_text, message_of
from domain.agents.tools import Tool, ToolContext, unreadable
from domain.agents.values import typed_values
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.tool_texts import EARLIER_ATTEMPT, for_good, try_again, unknown_tool
from domain.application.turns.user_code import Deadline, DeadlinePassed, run_user_code
from domain.errors import ApprovalRequired, InvalidArguments, Retry, ToolError
from domain.json import JsonObject, copied
from domain.thread.commands import CallOutcome
from domain.thread.state import Call

_log = logging.getLogger(__name__)


RETRY_CHARS = 200
"""Characters that are kept for what the model is asked to do after a `Retry`, next to the tool's own text."""


class CallResult(Struct, frozen=True):
    """What became of a call. `text` is what the model reads.

    `asks_again`: the tool asked the model to call it again. `repeatable`: the runtime may try once more.
    """

    outcome: CallOutcome
    text: str
    asks_again: bool = False
    repeatable: bool = False


@dataclass(frozen=True)
class ToolRun:
    """One call of a tool, run by one attempt at a node.

    `max_chars` is how much of an error the model reads. `count_retry` counts a `Retry` of the tool in this turn, and
    returns how many there were before.
    """

    node: NodeAttempt
    call: Call
    max_chars: int
    count_retry: Callable[[str], int]

    async def run(self, start_again: Callable[[int], Awaitable[None]]) -> CallResult:
        """Run the call until it has an outcome; after a failure again, as the tool's retry policy says.

        `start_again` records the start of a further attempt, with its number. Raises `ApprovalRequired`.
        """
        agent, request = self.node.agent, self.call.request
        tool = agent.by_name.get(request.name)
        if tool is None:
            return CallResult("failed", unknown_tool(agent, request.name))
        if request.fault:
            return CallResult("failed", unreadable(tool, request.fault))
        attempt = self.call.attempt + 1
        while True:
            result = await self._attempt(tool)
            delay = tool.retry.delay_after(attempt) if result.repeatable else None
            if delay is None:
                return result
            await asyncio.sleep(delay)
            attempt += 1
            await start_again(attempt)

    async def _attempt(self, tool: Tool) -> CallResult:
        """Run the tool once; errors are results, too."""
        context, arguments = self._context(), copied(self.call.request.arguments)
        name = f"tool {tool.name!r} of {self.node.run.place}"
        try:
            call = partial(_call, tool, arguments, context)
            result = await run_user_code(call, name, Deadline(tool.timeout), inner=True)
        except DeadlinePassed:
            late = f"{tool.name} did not answer within {tool.timeout:g} s"
            if tool.idempotent:
                return CallResult("failed", f"{late}.", repeatable=True)
            return CallResult("unknown", f"{late}. It may have had its effect.")
        except Exception as error:  # noqa: BLE001  (a tool may raise anything; the model sees it and can correct the call)
            _log.info("%s failed: %s", name, error_text(error))
            return self._failure(tool, error)
        if isinstance(result, ApprovalRequired):
            raise result
        if isinstance(result, str):
            return CallResult("succeeded", str(result))
        return CallResult("failed", f"{tool.name} gave {type(result).__name__} where text was expected")

    def _failure(self, tool: Tool, error: Exception) -> CallResult:
        text = error_shown(error, self.max_chars - (RETRY_CHARS if isinstance(error, Retry) else 0))
        match error:
            case Retry():
                more = self.count_retry(tool.name) < tool.max_retries
                return CallResult("failed", try_again(tool, text) if more else for_good(tool, text), asks_again=True)
            case InvalidArguments():
                interrupted = self.call.status == "started" or self.call.because == "outcome_unknown"
                if interrupted:  # another version of the tool had accepted them
                    return CallResult("unknown", f"{text}\n{EARLIER_ATTEMPT}")
                return CallResult("failed", text)
            case _:
                return CallResult("failed", text, repeatable=tool.idempotent)

    def _context(self) -> ToolContext:
        run, agent, thread = self.node.run, self.node.agent, self.node.state.thread
        key, questions = f"{run.thread_id}:{self.call.version}", self.node.state.turn.questions
        return ToolContext(
            run.thread_id,
            self.call.request.id,
            key,
            thread.subject,
            run.actor or "",
            agent.deps,
            _values=partial(typed_values, agent.graph.values, thread.values),
            _approved=self.call.approved,
            _answers={q.number: q.answer for q in questions if q.call == self.call.version and q.answered},
            _numbers=count(),
        )


async def _call(tool: Tool, arguments: JsonObject, context: ToolContext) -> Any:
    """Call a tool. If it needs a person's approval, that error is returned, because it is no failure of its code."""
    try:
        return await tool.run(arguments, context)
    except ApprovalRequired as asked:
        return asked
    except BaseExceptionGroup as group:  # a tool's `TaskGroup` has wrapped it
        asked_in_group, others = group.split(ApprovalRequired)
        if asked_in_group is None or others is not None:
            raise
        first: BaseException = asked_in_group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        return first


def error_shown(error: Exception, max_chars: int) -> str:
    """Return what the model reads about an error of a tool."""
    return message_of(error, max_chars) if isinstance(error, ToolError) else error_text(error, max_chars)
