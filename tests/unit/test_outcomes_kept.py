"""What was done or paid for is stored, however long that takes, and is not done again."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from domain.agents.agent import ItemContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import RetryPolicy
from domain.agents.tools import tool
from domain.application.turns.user_code import Deadline
from domain.errors import InvalidInput, StoreUnavailable
from domain.ids import Position, TurnId
from domain.json import Json
from domain.ports.log import Append
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, UpdateValues
from domain.thread.events import (
    ItemCompleted,
    MessageAppended,
    ModelCalled,
    NodeEvent,
    NodeFailed,
    ToolOutcomeUnknown,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
)
from infrastructure.memory.event_store import MemoryEventStore
from tests.support.runtime import calls, one_node, says, stage
from tests.support.spending import ask
from tests.support.storing import has, outside


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.application.turns.run.STORE_RETRY_S", 0.001)


class Leaving(MemoryEventStore):
    """A store that may be away: then it does not read, either."""

    def __init__(self) -> None:
        super().__init__()
        self.here = asyncio.Event()
        self.here.set()
        self.refused = 0

    async def append(self, append: Append) -> Position:
        if not self.here.is_set():
            self.refused += 1
            raise StoreUnavailable
        return await super().append(append)


async def test_no_tool_is_cancelled_or_run_again_because_the_store_is_away() -> None:
    store, log = Leaving(), list[str]()
    first_done = asyncio.Event()

    @tool
    async def short() -> str:
        """End while the store is away."""
        log.append("short")
        store.here.clear()
        first_done.set()
        return "short"

    @tool
    async def long() -> str:
        """End after the store has refused the other's outcome."""
        await first_done.wait()
        try:
            while store.refused < 5:
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        log.append("long")
        store.here.set()
        return "long"

    played = stage(assistant(tools=[short, long]), calls(("short", {}), ("long", {})), says("done"), store=store)
    await asyncio.wait_for(played.say("go"), 10)
    assert log == ["short", "long"]
    assert len(await played.happened(ToolSucceeded)) == 2
    assert not await played.happened(ToolOutcomeUnknown, NodeFailed)
    assert len(played.script.asked) == 2


async def test_no_item_is_worked_on_again_because_the_store_is_away() -> None:
    store, worked = Leaving(), list[Json]()

    async def each(_: ItemContext, item: Json) -> Json:
        worked.append(item)
        if item == 0:
            store.here.clear()
        else:
            while store.refused < 5:
                await asyncio.sleep(0.001)
            store.here.set()
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(str(await turn.map([0, 1], each)))]

    played = stage(one_node(node), store=store)
    await asyncio.wait_for(played.say("go"), 10)
    assert worked == [0, 1]
    assert len(await played.happened(ItemCompleted, TurnCompleted)) == 3
    assert (await played.happened(MessageAppended))[-1] == MessageAppended("assistant", "[0, 1]", 2)


async def test_an_item_that_has_its_result_is_stored_though_another_one_fails_for_good() -> None:
    store, failed = Leaving(), asyncio.Event()

    async def each(_: ItemContext, item: Json) -> Json:
        if item == 0:
            store.here.clear()
            return item
        while store.refused < 3:
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.05, store.here.set)
        failed.set()
        raise ValueError("no")

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(str(await turn.map([0, 1], each, retry=RetryPolicy(1))))]

    played = stage(one_node(node), store=store)
    await asyncio.wait_for(played.say("go"), 10)
    assert failed.is_set()
    assert len(await played.happened(ItemCompleted)) == 1
    assert await played.happened(TurnFailed)


async def test_the_time_in_which_the_store_is_away_is_not_the_nodes() -> None:
    store, tried = Leaving(), list[int]()

    async def each(_: ItemContext, item: Json) -> Json:
        store.here.clear()
        asyncio.get_running_loop().call_later(0.6, store.here.set)
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        tried.append(1)
        return [*await turn.generate(), turn.update(done=await turn.map([0], each))]

    played = stage(one_node(node, timeout=0.5), says("one"), store=store)
    await asyncio.wait_for(played.say("go"), 10)
    assert tried == [1]
    assert len(played.script.asked) == len(await played.happened(ModelCalled)) == 1
    assert await played.happened(TurnCompleted)


async def test_a_deadline_stands_still_while_it_is_paused() -> None:
    deadline = Deadline(0.05)
    passed = asyncio.create_task(deadline.passed())
    with deadline.paused(), deadline.paused():
        await asyncio.sleep(0.1)
        assert not passed.done()
        assert 0 < deadline.left <= 0.05
    await asyncio.wait_for(passed, 5)
    assert deadline.left <= 0


async def test_a_deadline_can_be_brought_forward_even_while_it_is_paused() -> None:
    deadline = Deadline(600)
    passed = asyncio.create_task(deadline.passed())
    await asyncio.sleep(0)
    with deadline.paused():
        deadline.end_now()
        await asyncio.wait_for(passed, 5)


@dataclass
class Broken(MemoryEventStore):
    """A store with a defect: it never takes events of a kind."""

    kind: str = ""
    tries: int = field(default=0)

    def __post_init__(self) -> None:
        super().__init__()

    async def append(self, append: Append) -> Position:
        if has(append, self.kind):
            self.tries += 1
            raise ZeroDivisionError("a defect")
        return await super().append(append)


async def test_what_a_store_cannot_take_fails_the_turn_and_is_not_paid_for_again() -> None:
    played = stage(one_node(ask, retry=RetryPolicy(5, first_delay=0.001)), says("one"), store=Broken("NodeCompleted"))
    await asyncio.wait_for(played.say("go"), 10)
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.detail == "only: The result of the node cannot be stored: ZeroDivisionError: a defect"
    assert len(played.script.asked) == len(await played.happened(ModelCalled)) == 1


async def test_what_cannot_follow_on_what_others_have_written_fails_the_turn() -> None:
    big = {"much": "x" * 200_000}

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        await outside(played, UpdateValues({"theirs": big}))
        return [*await turn.generate(), turn.update(mine=big)]

    played = stage(one_node(node, retry=RetryPolicy(5, first_delay=0.001)), says("one"))
    await asyncio.wait_for(played.say("go"), 10)
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert InvalidInput.__name__ in failed.detail
    assert len(played.script.asked) == len(await played.happened(ModelCalled)) == 1


async def test_a_cancellation_that_is_only_found_in_the_log_ends_the_node() -> None:
    async def each(_: ItemContext, item: Json) -> Json:
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        await outside(played, CancelTurn(TurnId(turn.state.turn.turn_id)))
        await turn.map([1], each)
        await asyncio.sleep(600)
        return ()

    played = stage(one_node(node, timeout=900))
    played.turns.start((await played.begin("go")).loaded, Metadata())
    await asyncio.wait_for(played.turns.wait(played.thread_id), 10)
    assert await played.happened(TurnCancelled)


async def test_a_call_that_an_item_has_reported_is_not_reported_by_its_node_again() -> None:
    async def each(_: ItemContext, item: Json) -> Json:
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        facts = await turn.generate()
        await turn.map([1], each)
        return facts

    played = stage(one_node(node), says("one"))
    await played.say("go")
    assert len(played.script.asked) == len(await played.happened(ModelCalled)) == 1
