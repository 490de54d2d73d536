"""Fan-out over a list, and the join.

Each item's result is recorded as soon as it is there, so that an item is not processed again after a crash.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from domain.agents.agent import Each, ItemContext
from domain.agents.callables import described, is_async
from domain.agents.error_text import failure_text
from domain.agents.graph import RetryPolicy
from domain.agents.output import output_of
from domain.agents.tools import Tool, ToolContext
from domain.agents.values import typed_values
from domain.application.turns.ask_model import ModelQuestion, ask_model
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.user_code import SIGNALS, run_user_code
from domain.errors import ApprovalRequired, InvalidInput, ToolError, TurnIsOver
from domain.ids import ThreadId
from domain.json import Json, copied
from domain.models.chat import ModelError
from domain.thread.commands import CompleteItem, FailItem, StartFanOut
from domain.thread.size_limits import check_is_json
from domain.thread.state import Item, Running


async def run_fan_out(
    work: NodeAttempt, items: Sequence[Json], each: Each | Tool, *, at_once: int, retry: RetryPolicy, number: int = 0
) -> Sequence[Json]:
    """Process the items that have no result yet, and return all results in the items' order.

    `number` counts the fan-outs of the attempt, from 0. `each` processes one item, `at_once` items at the same time;
    a tool is called with each item as its arguments.
    The first error that `retry` gives up on ends the rest.
    """
    run, before = work.run, work.state
    if isinstance(each, Tool):
        each = _each_calls(work, each)
    if at_once < 1:
        raise InvalidInput("at_once", f"must be at least 1, not {at_once}")
    if not is_async(each):
        raise InvalidInput("each", f"must be an async function, not {described(each)}")
    if before.turn.items_of(number) is None:
        await _report(work, StartFanOut(run.turn_id, before.turn.step, tuple(items), run.number, number))
    gate = asyncio.Semaphore(at_once)
    group = NodeTasks()

    async def one(index: int, item: Item) -> None:
        async with gate:
            await _until_done(work, FanOutItem(work, before, index, number), item, each, retry, group)

    there = work.state.turn.items_of(number) or ()
    await group.run([one(index, item) for index, item in enumerate(there) if not item.done])
    return [copied(item.result) for item in work.state.turn.items_of(number) or ()]


@dataclass
class FanOutItem:
    """The context of one item. Implements `domain.agents.agent.ItemContext`."""

    work: NodeAttempt
    state: Running
    """The state before the fan-out began. An item sees no later state, so its result does not depend on the others."""
    index: int
    fan_out: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    """The digests of the questions that the current attempt has asked."""
    questions: int = 0
    """The number of questions that the current attempt has asked."""
    last_answer: str = ""
    """What a model wrote last in the current attempt."""

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.work.run.thread_id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this item, different for every other item."""
        turn = self.state.turn
        place = f"{turn.step}.{self.fan_out}" if self.fan_out else turn.step
        return f"{self.thread_id}:{turn.turn_id}:{place}:{self.index}"

    async def ask(self, prompt: str, instructions: str = "", *, output: Any = str, model: str | None = None) -> Any:
        """Ask a model; see `TurnContext.ask`."""
        number, asked = self.questions, self.asked
        self.questions += 1
        place = (self.index, self.fan_out)
        question = ModelQuestion(prompt, instructions, output_of(output), number, asked, *place, model)
        answer, self.last_answer = await ask_model(self.work, question)
        return answer


def _each_calls(work: NodeAttempt, tool: Tool) -> Each:
    """Return a function that calls a tool with each item as its arguments. Raises `InvalidInput`."""
    if not tool.idempotent or tool.approval is not False:
        raise InvalidInput(
            "each",
            f"the tool {tool.name!r} must be idempotent and need no approval: an item may run again after a crash. "
            "Request other calls with turn.request, and run them with turn.run_tools",
        )

    async def call(item: ItemContext, arguments: Json) -> Json:
        if not isinstance(arguments, dict):
            raise InvalidInput(
                "items", f"must be objects, the arguments of {tool.name}, not {type(arguments).__name__}"
            )
        thread, graph = item.state.thread, work.agent.graph
        context = ToolContext[Any](
            *(item.thread_id, item.idempotency_key, item.idempotency_key),
            *(thread.subject, work.run.actor or "", work.agent.deps),
            _values=partial(typed_values, graph.values, thread.values),
        )
        try:
            async with asyncio.timeout(tool.timeout):
                return cast("Json", await tool.run(arguments, context))
        except ApprovalRequired as asked:
            raise ToolError(f"{tool.name} cannot wait for a person within turn.map: {asked}") from asked

    return call


async def _until_done(
    work: NodeAttempt, context: FanOutItem, item: Item, each: Each, retry: RetryPolicy, group: NodeTasks
) -> None:
    """Try an item until it has a result. Raises its error once `retry` gives up, or at once if it is not transient."""
    run, step, attempt = work.run, context.state.turn.step, item.attempt
    name = f"item {context.index} of node {context.state.turn.node!r} of {run.place}"
    clock = asyncio.get_running_loop().time
    while True:
        started, context.questions, context.last_answer = clock(), 0, ""
        context.asked = {}
        try:
            result = await run_user_code(lambda: each(context, copied(item.value)), name, inner=True)
            check_is_json(result, "result")
            duration = int((clock() - started) * 1000)
            with group.finishing():
                done = CompleteItem(run.turn_id, step, context.index, result, (), duration, run.number, context.fan_out)
                await _report(work, done)
        except SIGNALS:
            raise
        except Exception as error:
            lasting = isinstance(error, ModelError) and not error.transient
            delay = None if lasting else retry.delay_after(attempt)
            retry_in_ms = None if delay is None else int(delay * 1000)
            with group.finishing():
                text = failure_text(error, context.last_answer)
                failed = FailItem(
                    *(run.turn_id, step, context.index, attempt, text, retry_in_ms, run.number), fan_out=context.fan_out
                )
                await _report(work, failed)
            if delay is None:
                raise
            attempt += 1
            await asyncio.sleep(delay)
        else:
            return


async def _report(work: NodeAttempt, report: StartFanOut | CompleteItem | FailItem) -> None:
    if not await work.report(report):
        raise TurnIsOver
