"""Every answered call of a model is on record exactly once, and in the ledger, whatever comes between."""

import asyncio
import time
from collections.abc import Sequence
from copy import deepcopy

import pytest

from domain.agents.agent import ItemContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Node, RetryPolicy
from domain.application.budget.reservations import Recovered
from domain.application.command_handler import CommandRequest, execute
from domain.application.turns.model_registry import ModelRegistry
from domain.errors import LeaseLost
from domain.ids import TurnId
from domain.json import Json
from domain.models.chat import Usage
from domain.models.routing import ModelSpec
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, FailTurn
from domain.thread.events import (
    BudgetThresholdReached,
    CancellationRequested,
    Durability,
    ItemCompleted,
    Limit,
    MessageAppended,
    ModelCalled,
    NodeEvent,
    NodeFailed,
    TurnCancelled,
    TurnCompleted,
    TurnRolledBack,
)
from tests.support.given import A_RUNNING_TURN, TURN, given
from tests.support.runtime import Script, Stage, Words, calls, double, one_node, says
from tests.support.spending import (
    ONCE,
    WRITTEN,
    Endpoint,
    Failing,
    Flaky,
    accounted,
    ask,
    budgeted,
    check_ledger,
    failures,
    fan_out,
    finishes,
    in_a_row,
    outcome,
    policy,
    recorded,
    recover,
    spent,
)
from tests.support.storing import Late, Mute, Refusing, outside, run


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a store that is away again at once."""
    monkeypatch.setattr("domain.application.turns.run.STORE_RETRY_S", 0.001)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to models nearly all of a node's time, however little that is."""
    monkeypatch.setattr("domain.application.turns.model_calls.MARGIN_S", 0.2)
    monkeypatch.setattr("domain.application.turns.model_calls.MIN_CALL_TIME_S", 0.1)


def alone(model: Endpoint) -> ModelRegistry:
    return ModelRegistry.alone(model, "m")


async def one_and_a_slow_one(item: ItemContext, _: Json) -> Json:
    await item.ask("quick")
    return await item.ask("slow")


async def started(played: Stage) -> None:
    """Begin a turn that runs in the background."""
    played.turns.start((await played.begin("go")).loaded, Metadata())


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave to models more time than the node has: it is the node that is cut off."""
    monkeypatch.setattr("domain.application.turns.model_calls.MIN_CALL_TIME_S", 60.0)


class TestItems:
    @pytest.mark.usefixtures("unhurried")
    async def test_a_node_that_takes_too_long_has_made_the_calls_of_its_items(self) -> None:
        model = Endpoint()
        played = await accounted(fan_out(one_and_a_slow_one, 3, timeout=1), models=alone(model))
        assert outcome(await played.say("go")) == "node_failed"
        assert not await failures(played)
        assert await finishes(played) == {"stop": 3, "interrupted": 3}
        await check_ledger(played)
        assert await recover(played) == Recovered()

    @pytest.mark.usefixtures("unhurried")
    async def test_what_was_cut_off_has_what_went_to_and_fro_and_how_long_it_took(self) -> None:
        played = await accounted(fan_out(one_and_a_slow_one, 1, timeout=1), models=alone(Endpoint()))
        await played.say("go")
        cut = (await recorded(played))[-1]
        assert (cut.prompt_tokens, cut.completion_tokens, cut.estimated) == (1 + 4, len(WRITTEN.split()), True)
        assert 50 <= cut.duration_ms <= 20_000

    async def test_an_item_for_whose_second_call_too_little_is_left_has_made_the_first(self) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            await item.ask("word " * 100)
            return await item.ask("word " * 1_000)

        played = await accounted(fan_out(each, 1), models=alone(Endpoint()), context_window=2_000)
        await budgeted(played, Limit("lifetime", 1_000))
        assert outcome(await played.say("go")) == "budget_exhausted"
        assert await finishes(played) == {"stop": 1}
        await check_ledger(played)

    async def test_an_item_that_fails_ends_the_others_which_have_made_their_calls(self) -> None:
        async def each(item: ItemContext, number: Json) -> Json:
            await item.ask("quick")
            if number == 0:
                while len(model.asked) < 5:
                    await asyncio.sleep(0)
                raise ValueError("bad")
            return await item.ask("slow")

        model = Endpoint()
        played = await accounted(fan_out(each, 3), models=alone(model))
        assert outcome(await played.say("go")) == "node_failed"
        assert await finishes(played) == {"stop": 3, "interrupted": 2}
        await check_ledger(played)

    async def test_a_turn_that_is_cancelled_in_a_fan_out_has_made_its_calls(self) -> None:
        model = Endpoint()
        played = await accounted(fan_out(one_and_a_slow_one, 3), models=alone(model))
        await started(played)
        while len(model.asked) < 6:
            await asyncio.sleep(0)
        await cancel(played)
        assert await finishes(played) == {"stop": 3, "interrupted": 3}
        assert await played.happened(TurnCancelled)
        await check_ledger(played)

    async def test_a_ledger_that_is_away_at_an_items_second_call_takes_nothing_from_the_first(self) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            await item.ask("one")
            return await item.ask("two")

        model = Endpoint()
        played = await accounted(fan_out(each, 1), models=alone(model), ledger=Flaky())
        assert outcome(await played.say("go")) == "completed"
        assert model.answered == 2  # what was paid for is not asked again
        assert await finishes(played) == {"stop": 2}
        await recover(played)
        await check_ledger(played)

    async def test_an_items_result_that_is_stored_late_brings_its_call_once(self) -> None:
        async def each(_: ItemContext, number: Json) -> Json:
            return number

        async def node(turn: TurnContext) -> Sequence[NodeEvent]:
            facts = await turn.generate()
            if turn.state.turn.items is None:
                await turn.map([1], each)
            return facts

        agent = one_node(node, retry=RetryPolicy(2, first_delay=0.001), timeout=1)
        limit = Limit("lifetime", 10**6, warn_at=1e-6)
        played = await accounted(agent, says("a"), store=Late("ItemCompleted"), limit=limit)
        await run(played, "turn")
        assert [len(await played.happened(kind)) for kind in (ItemCompleted, NodeFailed, TurnCompleted)] == [1, 0, 1]
        assert len(played.script.asked) == len(await recorded(played)) == 1
        assert len(await played.happened(BudgetThresholdReached)) == 1
        await check_ledger(played)

    @pytest.mark.usefixtures("hurried")
    async def test_an_item_that_begins_late_has_time_left_for_another_model(self) -> None:
        async def each(item: ItemContext, number: Json) -> Json:
            if number == 0:
                await asyncio.sleep(1.5)
                return None
            return await item.ask("hello")

        hanging, quick = Failing(hangs=True), Endpoint()
        models = ModelRegistry(
            policy(a=ModelSpec("h", "hanging"), b=ModelSpec("q", "quick")), {"h": hanging, "q": quick}
        )
        played = await accounted(fan_out(each, 2, timeout=3.5, at_once=1), models=models)
        assert outcome(await played.say("go")) == "completed"
        assert [failed.model for failed in await failures(played)] == ["hanging"]
        assert [called.model for called in await recorded(played)] == ["quick"]


class TestOutages:
    @pytest.mark.parametrize("durability", ["sync", "turn", "async"])
    async def test_a_store_that_is_away_at_the_report_gets_it_later(self, durability: Durability) -> None:
        played = await accounted(assistant(), says("one"), store=Refusing("ModelCalled"))
        await run(played, durability)
        assert len(played.script.asked) == len(await recorded(played)) == 1
        assert len(await played.happened(MessageAppended)) == 2
        await check_ledger(played)

    async def test_a_ledger_that_is_away_at_a_second_call_takes_nothing_from_the_first(self) -> None:
        async def node(turn: TurnContext) -> Sequence[NodeEvent]:
            return [*await turn.generate(), *await turn.generate()]

        played = await accounted(one_node(node), says("one"), says("two"), ledger=Flaky())
        assert outcome(await played.say("go")) == "completed"
        assert len(played.script.asked) == len(await recorded(played)) == 2
        await recover(played)
        await check_ledger(played)

    @pytest.mark.parametrize("durability", ["sync", "turn", "async"])
    async def test_a_report_that_is_stored_and_gets_no_answer_is_on_record_once(self, durability: Durability) -> None:
        async def act(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.run_tools()
            return ()

        down, script = Failing(), Script([calls(("double", {"number": 2}))])
        models = ModelRegistry(policy(a=ModelSpec("d", "down"), b=ModelSpec("s", "script")), {"d": down, "s": script})
        agent = in_a_row(Node("ask", ask), Node("act", act), tools=[double])
        played = await accounted(agent, models=models, store=Mute("ModelCalled"))
        await run(played, durability)
        assert await played.happened(TurnCompleted)
        assert down.asked == len(await failures(played)) == 1
        assert len(script.asked) == len(await recorded(played)) == 1
        await check_ledger(played)


class TestWhoeverElseWrites:
    async def test_calls_that_are_kept_back_count_in_a_turn_that_is_cancelled_meanwhile(self) -> None:
        async def last(turn: TurnContext) -> Sequence[NodeEvent]:
            await outside(played, CancelTurn(TurnId(turn.state.turn.turn_id)))
            return await turn.generate()

        agent = in_a_row(Node("first", ask), Node("last", last))
        played = await accounted(agent, says("one"), says("two"))
        await run(played, "turn")
        assert await played.happened(TurnCancelled)
        assert len(played.script.asked) == len(await recorded(played)) == 2
        await check_ledger(played)
        assert await recover(played) == Recovered()

    async def test_who_has_lost_its_lease_leaves_what_it_had_set_aside_to_others(self) -> None:
        async def lost(_: TurnContext) -> Sequence[NodeEvent]:
            raise LeaseLost

        played = await accounted(in_a_row(Node("first", ask), Node("lost", lost)), says("one"))
        await run(played, "turn")
        assert await recorded(played) == []
        assert await recover(played) == Recovered(released=1)
        await check_ledger(played)


class TestInterrupted:
    async def test_a_process_that_shuts_down_in_order_has_made_the_calls_of_its_node(self) -> None:
        async def node(turn: TurnContext) -> Sequence[NodeEvent]:
            facts = await turn.generate()
            answered.set()
            await asyncio.sleep(60)
            return facts

        answered = asyncio.Event()
        played = await accounted(one_node(node), says("one"))
        await started(played)
        await answered.wait()
        await played.turns.close(0)
        assert await finishes(played) == {"stop": 1}
        await recover(played)
        await check_ledger(played)

    async def test_a_turn_that_is_cancelled_while_the_model_writes_has_made_the_call(self) -> None:
        model = Endpoint()
        played = await accounted(one_node(ask), models=alone(model))
        played.turns.start((await played.begin("slow")).loaded, Metadata())
        while not model.asked:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        await cancel(played)
        assert await finishes(played) == {"interrupted": 1}
        assert (await played.happened(MessageAppended))[-1] == MessageAppended(
            "assistant", WRITTEN, len(WRITTEN.split()), partial=True
        )
        await check_ledger(played)

    async def test_a_node_that_is_cut_off_while_an_answer_is_counted_has_made_the_call(self) -> None:
        class Slowly(Words):
            def count(self, text: str) -> int:
                if len(text) > 10_000:
                    time.sleep(2)
                return super().count(text)

        model = Endpoint(Usage(10, 6_000), text="w " * 6_000)
        agent = one_node(ask, retry=ONCE, timeout=1)
        played = await accounted(agent, models=alone(model), context_window=100_000)
        object.__setattr__(played.turns.services, "tokens", Slowly())
        assert outcome(await played.say("go")) == "node_failed"
        assert (model.answered, await finishes(played), await spent(played)) == (1, {"interrupted": 1}, 6_010)
        await check_ledger(played)

    @pytest.mark.usefixtures("hurried")
    async def test_what_a_model_had_written_when_its_time_was_over_counts_and_another_is_asked(self) -> None:
        wordy, quick = Failing("word " * 1_000, hangs=True), Endpoint()
        models = ModelRegistry(policy(a=ModelSpec("w", "wordy"), b=ModelSpec("q", "quick")), {"w": wordy, "q": quick})
        played = await accounted(one_node(ask, retry=ONCE, timeout=3), models=models)
        assert outcome(await played.say("go")) == "completed"
        assert [failed.model for failed in await failures(played)] == ["wordy"]
        made = [(called.model, called.finish_reason, called.completion_tokens) for called in await recorded(played)]
        assert made == [("wordy", "interrupted", 1_000), ("quick", "stop", 50)]
        await check_ledger(played)


class TestNodes:
    async def test_a_node_that_copies_what_the_model_said_has_made_one_call(self) -> None:
        async def copied(turn: TurnContext) -> Sequence[NodeEvent]:
            return deepcopy(await turn.generate())

        played = await accounted(one_node(copied), says("one"))
        await played.say("go")
        assert await finishes(played) == {"stop": 1}
        await check_ledger(played)

    async def test_a_node_that_keeps_the_call_to_itself_has_made_it(self) -> None:
        async def silent(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.generate()
            return [turn.say("hm")]

        played = await accounted(one_node(silent), says("one"))
        await played.say("go")
        assert await finishes(played) == {"stop": 1}
        await check_ledger(played)

    async def test_an_attempt_that_fails_after_its_call_has_made_it(self) -> None:
        async def failing(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.generate()
            raise ValueError("bad")

        played = await accounted(one_node(failing, retry=RetryPolicy(2, first_delay=0.001)), says("one"), says("two"))
        assert outcome(await played.say("go")) == "node_failed"
        assert await finishes(played) == {"stop": 2}
        await check_ledger(played)


def test_a_turn_that_is_to_be_rolled_back_is_so_though_its_budget_is_used_up() -> None:
    called = ModelCalled("m", 10, 2, 5, "stop")
    asked = (*A_RUNNING_TURN, CancellationRequested(TURN, "rolled_back"))
    given(*asked).when(FailTurn(TURN, "budget_exhausted", "", calls=(called,))).then(called, TurnRolledBack(TURN))


async def cancel(played: Stage) -> None:
    """Cancel the turn that runs, and wait for its end."""
    turn_id = played.turns.runs(played.thread_id)
    assert turn_id is not None
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (CancelTurn(turn_id),)))
    await played.turns.stop_if_cancelled(played.thread_id)
    await played.turns.wait(played.thread_id)
