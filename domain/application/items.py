"""Fan-out over a list, and the join: each item's result is recorded as it comes, so that nothing is done again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.agent import Agent, Each
from domain.application.calls import Calls, Prompt
from domain.application.counting import counted
from domain.application.run import Run
from domain.chat import MESSAGE_OVERHEAD, ChatMessage, ModelError
from domain.commands import CompleteItem, FailItem, StartFanOut
from domain.errors import BudgetExhausted, InvalidInput, LeaseLost, PromptTooLarge, StoreUnavailable, TurnIsOver
from domain.graph import Retry
from domain.ids import ThreadId
from domain.json import Json, storable_text
from domain.state import Item, Running

ERROR_LENGTH = 1_000


class AtWork(Protocol):
    """The node that fans out."""

    @property
    def run(self) -> Run:
        """The run."""

    @property
    def agent(self) -> Agent:
        """Whose turn it is."""

    @property
    def state(self) -> Running:
        """The state now."""

    @property
    def calls(self) -> Calls:
        """Its calls of models."""


async def work_on_items(
    work: AtWork, items: Sequence[Json], each: Each, *, at_once: int, retry: Retry
) -> Sequence[Json]:
    """Work on what has no result yet, and return all results in the items' order."""
    run, before = work.run, work.state
    if at_once < 1:
        raise InvalidInput("at_once", f"must be at least 1, not {at_once}")
    if before.turn.items is None:
        await _report(run, StartFanOut(run.turn_id, before.turn.step, tuple(items), run.number))
    gate = asyncio.Semaphore(at_once)

    async def one(index: int, item: Item) -> None:
        async with gate:
            await _until_done(work, ItemWork(work, before, index), item, each, retry)

    try:
        async with asyncio.TaskGroup() as group:
            for index, item in enumerate(work.state.turn.items or ()):
                if not item.done:
                    group.create_task(one(index, item))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [item.result for item in work.state.turn.items or ()]


@dataclass
class ItemWork:
    """One item at work. Implements `domain.agent.ItemContext`."""

    work: AtWork
    state: Running
    """The state before the list was begun: what it was then is all that an item depends on."""
    index: int

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""
        return self.work.run.thread_id

    @property
    def idempotency_key(self) -> str:
        """Name this item."""
        turn = self.state.turn
        return f"{self.thread_id}:{turn.turn_id}:{turn.step}:{self.index}"

    async def ask(self, prompt: str, instructions: str = "") -> str:
        """Ask the model; the call is recorded with the item's result."""
        system = (ChatMessage("system", instructions),) if instructions else ()
        messages = (*system, ChatMessage("user", prompt))
        count = self.work.run.means.tokens
        tokens = await counted(count, instructions) + await counted(count, prompt) + MESSAGE_OVERHEAD * len(messages)

        async def build(limit: int) -> Prompt:
            if tokens > limit:
                raise PromptTooLarge(tokens, limit)
            return Prompt(messages, tokens)

        return (await self.work.calls.ask(build, shrinks=False)).answer.content or ""


async def _until_done(work: AtWork, context: ItemWork, item: Item, each: Each, retry: Retry) -> None:
    """Try an item until it has a result. Raises its last error."""
    run, step, attempt = work.run, context.state.turn.step, item.attempt
    clock = asyncio.get_running_loop().time
    while True:
        started = clock()
        try:
            result = await each(context, item.value)
            duration = int((clock() - started) * 1000)
            await _report(run, CompleteItem(run.turn_id, step, context.index, result, (), duration, run.number))
        except (TurnIsOver, StoreUnavailable, LeaseLost, BudgetExhausted):
            raise
        except Exception as error:
            lasting = isinstance(error, ModelError) and not error.transient
            delay = None if lasting else retry.delay_after(attempt)
            told = storable_text(f"{type(error).__name__}: {error}")[:ERROR_LENGTH]
            retry_in_ms = None if delay is None else int(delay * 1000)
            await _report(run, FailItem(run.turn_id, step, context.index, attempt, told, retry_in_ms, run.number))
            if delay is None:
                raise
            attempt += 1
            await asyncio.sleep(delay)
        else:
            return


async def _report(run: Run, report: StartFanOut | CompleteItem | FailItem) -> None:
    if not await run.report(report):
        raise TurnIsOver
