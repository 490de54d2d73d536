"""The budget of turns: limits of a thread, of a turn and of a tenant, and their effect on prompts."""

import asyncio
from datetime import date
from uuid import uuid4

import pytest

from domain.agents.agent import ItemContext
from domain.agents.assistant import assistant
from domain.agents.graph import Node
from domain.application.turns.model_registry import ModelRegistry
from domain.budget.prices import Price, Prices
from domain.ids import DEFAULT_TENANT, ThreadId
from domain.json import Json
from domain.models.chat import ChatAnswer, Usage
from domain.models.routing import ModelSpec, Policy, Rule
from domain.money import PER_DOLLAR
from domain.ports.ledger import Amount, Granted, Refused, Reservation
from domain.thread.events import BudgetThresholdReached, Limit
from domain.windows import Span
from infrastructure.memory.ledger import MemoryLedger
from tests.support.runtime import Stage, one_node, says, stage
from tests.support.spending import (
    ONCE,
    Endpoint,
    accounted,
    ask,
    budgeted,
    check_ledger,
    failures,
    fan_out,
    in_a_row,
    limited,
    outcome,
    policy,
    recorded,
    spent,
)
from tests.support.storing import Counting, Refusing

A_DOLLAR_A_TOKEN = Prices(date(2026, 11, 1), {"gpt": Price(1e6, 1e6)})
TWO_CALLS = in_a_row(Node("a", ask), Node("b", ask))


async def a_hundred_words(item: ItemContext, _: Json) -> Json:
    return await item.ask("word " * 100)


async def hello(item: ItemContext, _: Json) -> Json:
    return await item.ask("hello there")


class Slow(MemoryLedger):
    """A ledger that lets other tasks run before it answers."""

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        await asyncio.sleep(0.005)
        return await super().reserve(reservation)


def big(tokens: int = 400) -> ChatAnswer:
    return ChatAnswer("x", (), "stop", "script", Usage(40, tokens))


def a_call(played: Stage, tokens: int, agent: str = "x", model: str = "x") -> Reservation:
    """Make a reservation for a call of another thread."""
    return Reservation(uuid4(), DEFAULT_TENANT, ThreadId(uuid4()), agent, model, Amount(tokens), played.clock.now())


class TestLimits:
    async def test_items_stay_within_the_threads_limit_together(self) -> None:
        played = stage(fan_out(a_hundred_words, 40), models=ModelRegistry.alone(Endpoint(), "m"), context_window=2_000)
        await budgeted(played, Limit("lifetime", 1_500))
        await check_used_up(played, 1_500)

    async def test_items_stay_within_the_threads_limit_while_the_ledger_is_asked(self) -> None:
        agent, model = fan_out(a_hundred_words, 40), ModelRegistry.alone(Endpoint(), "m")
        played = stage(agent, models=model, context_window=2_000, ledger=Slow())
        await limited(played, Limit("lifetime", 10**9))
        await budgeted(played, Limit("lifetime", 1_500))
        await check_used_up(played, 1_500)

    async def test_items_stay_within_a_limit_for_each_turn_together(self) -> None:
        agent = fan_out(a_hundred_words, 40)
        played = await accounted(
            agent, models=ModelRegistry.alone(Endpoint(), "m"), context_window=2_000, limit=Limit("turn", 1_500)
        )
        await check_used_up(played, 1_500)

    async def test_a_limit_for_each_turn_begins_anew_with_the_next_one(self) -> None:
        played = await accounted(TWO_CALLS, *[big()] * 4, limit=Limit("turn", 1_000))
        assert [outcome(await played.say("go")), outcome(await played.say("go"))] == ["completed", "completed"]
        assert await spent(played) == 4 * 440

    @pytest.mark.parametrize("of", ["thread", "tenant"])
    async def test_calls_wait_for_what_those_beside_them_do_not_use(self, of: str) -> None:
        model = Endpoint(Usage(6, 1))
        played = stage(fan_out(hello, 8), models=ModelRegistry.alone(model, "m"), ledger=MemoryLedger())
        await (budgeted if of == "thread" else limited)(played, Limit("lifetime", 3_000))
        assert outcome(await played.say("go")) == "completed"
        assert (model.answered, await spent(played)) == (8, 56)

    async def test_waiting_for_the_ledger_is_not_the_models_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("domain.application.turns.model_calls.MARGIN_S", 4)
        monkeypatch.setattr("domain.application.turns.model_calls.MIN_CALL_TIME_S", 0.1)
        model = Endpoint()
        agent = one_node(ask, retry=ONCE, timeout=5)
        played = await accounted(agent, models=ModelRegistry.alone(model, "m"), limit=Limit("lifetime", 3_000))
        other = a_call(played, 2_990)
        await played.ledger.reserve(other)
        turn = asyncio.create_task(played.say("go"))
        await asyncio.sleep(1.2)
        await played.ledger.release(other.id)
        assert outcome(await turn) == "completed"
        assert (model.answered, await failures(played)) == (1, [])


class TestMoney:
    @pytest.mark.parametrize("of", ["thread", "tenant"])
    async def test_a_model_costs_what_it_was_asked_for_whatever_it_calls_itself(self, of: str) -> None:
        models = ModelRegistry(
            policy(x=ModelSpec("p", "gpt-4o", max_answer=64)), {"p": Endpoint(Usage(10, 5), "openai/gpt")}
        )
        played = stage(one_node(ask), ledger=MemoryLedger(), prices=A_DOLLAR_A_TOKEN, models=models)
        await (budgeted if of == "thread" else limited)(played, Limit("lifetime", cost=300 * PER_DOLLAR))
        outcomes = [outcome(await played.say("hi")) for _ in range(20)]
        assert set(outcomes) == {"completed", "budget_exhausted"}
        assert 100 < await spent(played) <= 300
        assert {called.model for called in await recorded(played)} == {"gpt-4o"}
        for usage in await played.ledger.limit_usage(DEFAULT_TENANT, played.clock.now()):
            assert usage.spent.cost == await spent(played) * PER_DOLLAR

    async def test_a_model_without_a_price_is_named_as_it_calls_itself(self) -> None:
        models = ModelRegistry(policy(x=ModelSpec("p", "latest")), {"p": Endpoint(name="small-2026")})
        played = await accounted(one_node(ask), models=models, prices=A_DOLLAR_A_TOKEN)
        await played.say("hi")
        assert {called.model for called in await recorded(played)} == {"small-2026"}


class TestHowModelsCount:
    @pytest.mark.parametrize(("counted", "reported"), [(10, 40), (10, 200), (20, 1_000)])
    def test_what_a_template_adds_to_short_prompts_makes_long_ones_no_longer(self, counted: int, reported: int) -> None:
        account = stage(assistant()).account
        at_first = account.expected("m", 20_000)
        account.observe("m", counted, reported)
        assert account.expected("m", 20_000) <= at_first + reported
        assert account.expected("m", counted) >= reported

    def test_a_factor_is_learnt_from_long_prompts_and_the_largest_stays(self) -> None:
        account = stage(assistant()).account
        account.observe("m", 2_000, 4_000)
        account.observe("m", 2_000, 2_000)
        assert 40_000 < account.expected("m", 20_000) < 44_000
        assert account.expected("other", 20_000) < 28_000


class TestLimitsOfOneModelOrAgent:
    async def test_a_limit_for_each_turn_of_one_model_counts_that_model_alone(self) -> None:
        models = {name: ModelSpec("p", name, max_answer=100) for name in ("small", "big")}
        chosen = Policy(models, ("small",), (Rule("big", node="dear"),))
        agent = in_a_row(Node("cheap", ask), Node("dear", ask))
        played = stage(agent, models=ModelRegistry(chosen, {"p": Endpoint(Usage(500, 100))}), ledger=MemoryLedger())
        await limited(played, Limit("turn", 600), model="big")
        assert outcome(await played.say("hi")) == "completed"
        assert [called.model for called in await recorded(played)] == ["small", "big"]

    @pytest.mark.parametrize("scope", [{"agent": "another"}, {"model": "another"}])
    @pytest.mark.parametrize("window", ["turn", "day"])
    async def test_a_limit_of_another_agent_or_model_strains_nothing(self, scope: dict[str, str], window: Span) -> None:
        model, other = Endpoint(), {"agent": "x", "model": "x", **scope}
        played = stage(TWO_CALLS, models=ModelRegistry.alone(model, "m"), ledger=MemoryLedger())
        await limited(played, Limit(window, 10), **scope)
        await played.ledger.reserve(a_call(played, 9, **other))
        assert outcome(await played.say("hi")) == "completed"
        assert model.longest == [1_200, 1_200]


class TestPrompts:
    @pytest.mark.parametrize("words", [600, 1_000])
    async def test_a_strained_budget_fails_no_prompt_that_cannot_be_cut(self, words: int) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            return await item.ask("word " * words)

        model = Endpoint(Usage(words, 5))
        played = await accounted(
            fan_out(each, 2, at_once=1),
            models=ModelRegistry.alone(model, "m"),
            context_window=2_000,
            limit=Limit("lifetime", 10**6, warn_at=0.000_1),
        )
        assert outcome(await played.say("go")) == "completed"
        assert model.longest == [300, 150], "the second answer is to be short"

    async def test_a_model_is_chosen_by_the_whole_prompt_though_the_usual_one_could_not_take_it(self) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            return await item.ask("word " * 900)

        specs = {
            "small": ModelSpec("p", "small", context_window=1_000),
            "big": ModelSpec("p", "big", context_window=8_000),
        }
        chosen = Policy(specs, ("small", "big"), (Rule("big", prompt_over=500),))
        played = stage(fan_out(each, 1), models=ModelRegistry(chosen, {"p": Endpoint(Usage(900, 5))}))
        assert outcome(await played.say("go")) == "completed"
        assert [called.model for called in await recorded(played)] == ["big"]
        assert not await failures(played)

    async def test_a_prompt_that_the_first_model_cannot_take_goes_to_the_next(self) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            return await item.ask("word " * 900)

        specs = policy(small=ModelSpec("p", "small", context_window=1_000), big=ModelSpec("p", "big"))
        played = stage(fan_out(each, 1), models=ModelRegistry(specs, {"p": Endpoint(Usage(900, 5))}))
        assert outcome(await played.say("go")) == "completed"
        assert [called.model for called in await recorded(played)] == ["big"]


class TestThresholds:
    @pytest.mark.parametrize("of", ["thread", "tenant"])
    @pytest.mark.parametrize("away", [False, True])
    async def test_it_is_told_once_and_after_an_outage_as_well(self, of: str, away: bool) -> None:  # noqa: FBT001
        store = Refusing("BudgetThresholdReached") if away else Counting()
        played = stage(assistant(), *[says("hi")] * 3, store=store, ledger=MemoryLedger())
        limit = Limit("lifetime", 8_000, warn_at=0.001)
        await (budgeted if of == "thread" else limited)(played, limit)
        for _ in range(3):
            assert outcome(await played.say("go")) == "completed"
        (told,) = await played.happened(BudgetThresholdReached)
        assert isinstance(told, BudgetThresholdReached)
        assert (told.scope, told.limit, told.tokens) == (of, limit, 12)
        await check_ledger(played)

    async def test_an_outage_while_it_is_told_holds_nothing_twice(self) -> None:
        played = stage(TWO_CALLS, big(), big(200), store=Refusing("BudgetThresholdReached"), context_window=4_000)
        await budgeted(played, Limit("lifetime", 950, warn_at=0.3))
        assert outcome(await played.say("go")) == "completed"
        assert await spent(played) == 680


async def check_used_up(played: Stage, limit: int) -> None:
    """Run a turn that would take more than a limit: it takes nearly all of it, and no more."""
    assert outcome(await played.say("go")) == "budget_exhausted"
    assert limit - 300 <= await spent(played) <= limit
