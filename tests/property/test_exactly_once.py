"""Whenever a turn is cut off, each call of a model that was answered is on record once, and so is each outcome.

A turn is stopped, abandoned or closed at a random moment, again and again, while appends are slow, are cut off, or are
done though their answers get lost; another run goes on with it, as after a restart.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from domain.agents.agent import ItemContext, TurnContext
from domain.agents.graph import Node, RetryPolicy
from domain.agents.tools import tool
from domain.application.audit.verify import verify_thread
from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.errors import StoreUnavailable, TurnHasEnded
from domain.ids import Position, TurnId
from domain.json import Json
from domain.models.chat import ChatAnswer, ChatRequest, OnDelta, Usage
from domain.ports.log import Append, EventStore
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, ResumeTurn
from domain.thread.events import Durability, ItemCompleted, ModelCalled, NodeEvent, ToolSucceeded
from domain.thread.state import Running
from tests.support.runtime import Stage
from tests.support.spending import accounted, check_ledger, in_a_row
from tests.support.storing import begin

ROUNDS = int(os.environ.get("EXACTLY_ONCE_ROUNDS", "12"))
"""For each store and durability; `make chaos` has more."""


@dataclass
class Numbered:
    """A model that writes the number of each answer, which its usage shows: no two calls look the same."""

    delays: random.Random
    answered: list[int] = field(default_factory=list)
    interrupted: int = 0

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        try:
            await asyncio.sleep(self.delays.random() / 300)
        except asyncio.CancelledError:
            self.interrupted += 1
            raise
        number = len(self.answered) + 1
        self.answered.append(number)
        return ChatAnswer("yes", (), "stop", request.model or "", Usage(1_000 + number, 1))

    async def close(self) -> None:
        return


class Unsteady:
    """A store whose appends are slow, and some of whose answers get lost, before or after it has done its work."""

    def __init__(self, store: EventStore, faults: random.Random) -> None:
        self._store = store
        self._faults = faults
        self.steady = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def append(self, append: Append) -> Position:
        if self.steady:
            return await self._store.append(append)
        fault = self._faults.random()
        await asyncio.sleep(fault / 300)
        if fault < 0.1:
            raise StoreUnavailable
        if fault < 0.2:  # its caller may be cancelled, and it is done all the same
            return await asyncio.shield(asyncio.ensure_future(self._late(append)))
        stored = await self._store.append(append)
        if fault < 0.3:
            raise StoreUnavailable
        return stored

    async def _late(self, append: Append) -> Position:
        await asyncio.sleep(0.002)
        return await self._store.append(append)


@tool(idempotent=True)
async def act(number: int) -> str:
    """Act."""
    await asyncio.sleep(0.001)
    return f"acted {number}"


async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return [*await turn.generate(), *turn.request("act", number=1), turn.request("act", number=2)[1]]


async def run_tools(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return ()


async def each(item: ItemContext, value: Json) -> Json:
    return f"{value} {await item.ask('one')} {await item.ask('two')}"


async def work(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.map([1, 2, 3], each)
    return await turn.generate()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.application.turns.run.STORE_RETRY_S", 0.001)


async def go_on(played: Stage) -> None:
    """Resume the turn, as another worker would."""
    loaded = await played.repository.load(played.thread_id)
    if isinstance(loaded.state, Running):
        turn = loaded.state.turn
        resumed = ResumeTurn(TurnId(turn.turn_id), turn.run, "test", played.agent.graph.fingerprint)
        outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (resumed,), known=loaded))
        played.turns.start(outcome.loaded, Metadata())


async def cut_off(played: Stage, store: Unsteady, how: str) -> None:
    turn_id = played.turns.runs(played.thread_id)
    if how == "stop" and turn_id is not None:
        repository = ThreadRepository(
            store._store, played.snapshots, played.clock, fingerprint="test"
        )  # another process's
        with suppress(TurnHasEnded):
            await execute(repository, CommandRequest(played.thread_id, lambda _: (CancelTurn(turn_id),)))
        await played.turns.stop_if_cancelled(played.thread_id)
        await played.turns.wait(played.thread_id)
    elif how == "close":
        await played.turns.close(0)
        played.turns._handing_over = False
    else:
        await played.turns.abandon(played.thread_id)


@pytest.mark.parametrize("durability", ["sync", "turn"])
async def test_every_answer_is_on_record_once(event_store: EventStore, store_kind: str, durability: Durability) -> None:
    for seed in range(ROUNDS):
        dice = random.Random(f"{store_kind} {durability} {seed}")
        model = Numbered(dice)
        store = Unsteady(event_store, dice)
        agent = in_a_row(
            Node("ask", ask), Node("act", run_tools), Node("work", work, retry=RetryPolicy(3)), tools=[act]
        )
        played = await accounted(agent, models=ModelRegistry.alone(model, "m"), store=store)
        store.steady = True
        started = await begin(played, durability)
        store.steady = False
        played.turns.start(started.loaded, Metadata())
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(dice.random() / 50)
            await cut_off(played, store, dice.choice(["abandon", "close", "stop"]))
            store.steady = True
            await asyncio.sleep(0.004)  # what is late is stored by then
            played.forget_hot()
            await go_on(played)
            store.steady = False
        await asyncio.wait_for(played.turns.wait(played.thread_id), 20)
        await check(played, model, seed)


async def check(played: Stage, model: Numbered, seed: int) -> None:
    events = await played.events()
    calls = [event for event in events if isinstance(event, ModelCalled)]
    numbers = Counter(call.prompt_tokens - 1_000 for call in calls if call.finish_reason == "stop")
    assert numbers == Counter(model.answered), seed
    assert sum(call.finish_reason == "interrupted" for call in calls) <= model.interrupted, seed
    outcomes = Counter(event.call for event in events if isinstance(event, ToolSucceeded))
    items = Counter(event.index for event in events if isinstance(event, ItemCompleted))
    assert set(outcomes.values()) | set(items.values()) <= {1}, seed
    await check_ledger(played)
    assert (await verify_thread(played.store, played.thread_id)).problems == ()
