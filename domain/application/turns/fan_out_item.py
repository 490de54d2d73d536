"""One item of a fan-out: its context, and its attempts until it has a result."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from domain.agents.agent import Each
from domain.agents.error_text import failure_text
from domain.agents.graph import RetryPolicy
from domain.agents.output import output_of
from domain.application.turns.ask_model import ModelQuestion, ask_model
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.user_code import SIGNALS, Deadline, DeadlinePassed, run_user_code
from domain.errors import InvalidGraph, NodeTimeout, TurnIsOver
from domain.ids import ThreadId
from domain.json import Json, copied
from domain.models.chat import ModelError
from domain.thread.commands import AdvanceItem, CompleteItem, FailItem
from domain.thread.size_limits import check_is_json
from domain.thread.state import Item, Running

T = TypeVar("T")


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
    node: str = ""
    """The node of the item's graph that asks, if the item runs one."""

    def begin_attempt(self) -> None:
        """Forget what the attempt before has asked."""
        self.asked, self.questions, self.last_answer = {}, 0, ""

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
        given = (prompt, instructions, output_of(output), number, asked, *place, model)
        question = ModelQuestion(*given, item_node=self.node)
        answer, self.last_answer = await ask_model(self.work, question)
        return answer


@dataclass(frozen=True)
class ItemAttempts:
    """Attempts at one item of a node's list, or at a node of the graph that it runs."""

    work: NodeAttempt
    item: FanOutItem
    retry: RetryPolicy
    group: NodeTasks

    async def of_function(self, each: Each, item: Item) -> None:
        """Call a function until the item has a result. Raises its error once `retry` gives up."""
        context, run = self.item, self.work.run

        def done(result: Json, duration_ms: int) -> CompleteItem:
            check_is_json(result, "result")
            place = (run.turn_id, context.state.turn.step, context.index, result, (), duration_ms)
            return CompleteItem(*place, run.number, context.fan_out)

        name = f"item {context.index} of node {context.state.turn.node!r} of {run.place}"
        await self.until_done(item.attempt, name, lambda: each(context, copied(item.value)), done, self.retry)

    async def until_done(
        self,
        attempt: int,
        name: str,
        code: Callable[[], Awaitable[T]],
        done: Callable[[T, int], AdvanceItem | CompleteItem],
        retry: RetryPolicy,
        seconds: float | None = None,
    ) -> T:
        """Run code from its `attempt`th time on until it succeeds, and report what `done` makes of its result.

        Each attempt may take so many `seconds`. Raises its error once `retry` gives up, or at once if it is lasting.
        """
        context, run, step = self.item, self.work.run, self.item.state.turn.step
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            context.begin_attempt()
            try:
                result = await self._run(code, name, seconds)
                report = done(result, int((clock() - started) * 1000))
                with self.group.finishing():
                    await self._report(report)
            except SIGNALS:
                raise
            except Exception as error:
                delay = None if _is_lasting(error) else retry.delay_after(attempt)
                retry_in_ms = None if delay is None else int(delay * 1000)
                with self.group.finishing():
                    text = failure_text(error, context.last_answer)
                    failed = FailItem(
                        *(run.turn_id, step, context.index, attempt, text, retry_in_ms, run.number),
                        fan_out=context.fan_out,
                    )
                    await self._report(failed)
                if delay is None:
                    raise
                attempt += 1
                await asyncio.sleep(delay)
            else:
                return result

    async def _run(self, code: Callable[[], Awaitable[T]], name: str, seconds: float | None) -> T:
        if seconds is None:
            return await run_user_code(code, name, inner=True)
        try:
            with self.work.run.within(Deadline(seconds)) as deadline:
                return await run_user_code(code, name, deadline, inner=True)
        except DeadlinePassed:
            raise NodeTimeout(f"did not end within {seconds:g} s") from None

    async def _report(self, report: AdvanceItem | CompleteItem | FailItem) -> None:
        if not await self.work.report(report):
            raise TurnIsOver


def _is_lasting(error: Exception) -> bool:
    """Return whether a further attempt would fail as well."""
    return isinstance(error, InvalidGraph) or (isinstance(error, ModelError) and not error.transient)
