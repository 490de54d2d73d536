"""Answers that cannot be read were paid for: they count against every budget, whatever asks and whenever it is stored.

The endpoint answers over real HTTP, and reports the same usage for each of its answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.graph import Node, RetryPolicy
from domain.application.turns.model_registry import ModelRegistry
from domain.ids import DEFAULT_TENANT
from domain.json import Json
from domain.models.routing import ModelSpec
from domain.thread.codec import Metadata
from domain.thread.events import Durability, Limit, ModelCalled, NodeEvent
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.models.openai.endpoints import TimeLimits
from tests.fakes.openai_server import Cut, OpenAIServer, Pause, Reply, chunk, completion, events, refusal
from tests.support.http import Api, running_api
from tests.support.runtime import Stage, one_node
from tests.support.spending import (
    accounted,
    ask,
    budgeted,
    check_ledger,
    failures,
    in_a_row,
    limited,
    outcome,
    policy,
    recorded,
    spent,
)
from tests.support.storing import run

EACH = 860
"""Tokens that the endpoint reports for each of its answers."""

BUDGET = 4_000
TURNS = 12
AT_ONCE = RetryPolicy(3, first_delay=0.001)
REPORT = {"prompt_tokens": 260, "completion_tokens": 600, "total_tokens": EACH}
USED = {"model": "test-1", "choices": [], "usage": REPORT}

UNREADABLE: dict[str, Reply] = {
    "no choice": completion(choices=[], usage=REPORT),
    "a choice of another shape": completion(choices=["hello"], usage=REPORT),
    "JSON that breaks off": Reply([json.dumps({"choices": [{}], "usage": REPORT}).encode()[:-1]]),
    "JSON with something after it": Reply([json.dumps({"usage": REPORT}).encode() + b"}}"]),
    "a part of another shape, then the usage": events({"choices": "none"}, chunk(finish="stop"), USED, "[DONE]"),
    "a part that is no JSON, then the usage": events(chunk("Hel"), "{nonsense", chunk("lo"), USED, "[DONE]"),
    "the usage in the part that is no JSON": events(chunk("Hel"), json.dumps(USED)[:-1], "[DONE]"),
    "cut after the usage": events(chunk("Hel"), USED, Cut()),
}


LIMITS = TimeLimits(silence=2, first_byte=20)


@asynccontextmanager
async def answering(reply: Reply, limits: TimeLimits = LIMITS) -> AsyncIterator[tuple[OpenAIServer, ModelRegistry]]:
    """Serve an answer, and ask for it over real HTTP."""
    async with OpenAIServer(otherwise=reply) as server:
        models = ModelRegistry.alone(OpenAIChatModel(server.endpoint, None, "test-1", limits=limits), "test-1")
        try:
            yield server, models
        finally:
            await models.close()


async def summarise(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.compact()


async def asks_for_items(turn: TurnContext) -> Sequence[NodeEvent]:
    async def each(item: ItemContext, number: Json) -> Json:
        return await item.ask(f"What is {number}?")

    await turn.map(list(range(6)), each, at_once=3, retry=AT_ONCE)
    return ()


async def says_much(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say(f"{turn.state.thread.turns} " + "word " * 4_000)]


QUICK = in_a_row(Node("ask", ask, retry=AT_ONCE))
"""Asks as the built-in agent does, without the pauses."""

WORKS: dict[str, Agent] = {
    "generate": QUICK,
    "items": one_node(asks_for_items, retry=AT_ONCE, timeout=60),
    "compact": in_a_row(Node("say", says_much), Node("summarise", summarise)),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shortly for what calls of the same turn have reserved and not settled yet."""
    monkeypatch.setattr("domain.application.budget.turn_budget.RESERVE_TIMEOUT_S", 0.2)


async def set_for(played: Stage, whose: str, tokens: int) -> None:
    limit = Limit("lifetime", tokens)
    await (limited(played, limit) if whose == "tenant" else budgeted(played, limit))


class TestBudgets:
    @pytest.mark.parametrize("durability", ["sync", "turn", "async"])
    @pytest.mark.parametrize("work", WORKS)
    @pytest.mark.parametrize("whose", ["thread", "tenant"])
    async def test_what_is_reported_passes_a_budget_by_one_call_at_most(
        self, work: str, whose: str, durability: Durability
    ) -> None:
        async with answering(UNREADABLE["no choice"]) as (server, models):
            played = await accounted(WORKS[work], models=models)
            await set_for(played, whose, BUDGET)
            for _ in range(TURNS):
                await run(played, durability)
        calls = await recorded(played)
        reported = [one for one in calls if one.finish_reason == "malformed"]  # others were cut off with their item
        assert len(reported) * EACH <= BUDGET + EACH
        assert {(one.prompt_tokens, one.completion_tokens) for one in reported} == {(260, 600)}
        assert BUDGET // EACH // 2 <= len(server.requests) <= len(calls)
        await check_ledger(played)

    @pytest.mark.parametrize("answer", UNREADABLE)
    async def test_whatever_cannot_be_read_in_an_answer_its_report_counts(self, answer: str) -> None:
        async with answering(UNREADABLE[answer]) as (server, models):
            played = await accounted(QUICK, models=models)
            await budgeted(played, Limit("lifetime", BUDGET))
            for _ in range(TURNS):
                await played.say("go on")
        assert len(server.requests) * EACH <= BUDGET + EACH
        assert await spent(played) >= min(BUDGET, len(server.requests) * EACH) - EACH
        await check_ledger(played)

    async def test_an_endpoint_that_ignores_how_long_an_answer_may_be_is_asked_no_more(self) -> None:
        report = {"prompt_tokens": 60, "completion_tokens": 3_000}
        async with answering(completion(choices=[], usage=report)) as (server, models):
            played = await accounted(QUICK, models=models)
            await budgeted(played, Limit("lifetime", 2_000))
            for _ in range(TURNS):
                await played.say("go on")
            (called,) = await recorded(played)
        assert len(server.requests) == 1
        assert (called.prompt_tokens, called.completion_tokens, called.reported) == (60, 3_000, None)
        await check_ledger(played)

    async def test_models_that_are_asked_instead_share_the_budget(self) -> None:
        unreadable = UNREADABLE["no choice"]
        async with answering(unreadable) as (one, first), answering(unreadable) as (other, second):
            models = ModelRegistry(
                policy(a=ModelSpec("one", "big"), b=ModelSpec("other", "small")),
                {"one": first.usual, "other": second.usual},
            )
            played = await accounted(QUICK, models=models)
            await set_for(played, "tenant", BUDGET)
            for _ in range(TURNS):
                await played.say("go on")
        assert one.requests
        assert other.requests
        assert (len(one.requests) + len(other.requests)) * EACH <= BUDGET + EACH
        await check_ledger(played)

    async def test_what_one_model_has_cost_is_settled_before_the_next_one_is_asked(self) -> None:
        """So a process that dies then has lost nothing of it."""
        slow = Reply([], before=[Pause(60)])
        async with answering(UNREADABLE["no choice"]) as (_, first), answering(slow) as (other, second):
            models = ModelRegistry(
                policy(a=ModelSpec("one", "big"), b=ModelSpec("other", "small")),
                {"one": first.usual, "other": second.usual},
            )
            played = await accounted(QUICK, models=models)
            played.turns.start((await played.begin("go")).loaded, Metadata())
            while not other.requests:
                await asyncio.sleep(0.01)
            (usage,) = await played.ledger.limit_usage(DEFAULT_TENANT, played.clock.now())
            assert usage.spent.tokens == await spent(played) == EACH
            await played.turns.close(0)


class TestCosts:
    """What one call has cost, by the log."""

    async def once(self, reply: Reply) -> list[ModelCalled]:
        async with answering(reply) as (_, models):
            played = await accounted(in_a_row(Node("ask", ask)), models=models)
            assert outcome(await played.say("one two three")) == "node_failed"
            assert len(await failures(played)) == 1
            await check_ledger(played)
            return await recorded(played)

    async def test_a_report_is_settled(self) -> None:
        (called,) = await self.once(UNREADABLE["no choice"])
        assert (called.prompt_tokens, called.completion_tokens, called.finish_reason) == (260, 600, "malformed")

    @pytest.mark.parametrize("end", [Cut(), Pause(9), "{nonsense", {"error": "slot lost"}])
    async def test_without_a_report_what_was_heard_counts(self, end: Any) -> None:
        arguments = {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"for": "what lies'}}
        (called,) = await self.once(events(chunk("so far so"), chunk(" good "), chunk(tool_calls=[arguments]), end))
        assert called.estimated
        assert (called.prompt_tokens, called.completion_tokens >= 7) == (called.prompt_tokens, True)
        assert called.finish_reason in {"interrupted", "malformed"}

    @pytest.mark.parametrize("reply", [Reply(), Reply([b"nonsense"]), completion(choices=[], usage=None)])
    async def test_an_answer_without_anything_has_had_the_prompt_read(self, reply: Reply) -> None:
        (called,) = await self.once(reply)
        assert called.prompt_tokens > 0

    async def test_an_answer_that_is_too_large_counts_as_far_as_it_came(self) -> None:
        (called,) = await self.once(completion("word " * 1_000_000))
        assert called.completion_tokens > 800_000
        assert called.finish_reason == "too_large"

    @pytest.mark.parametrize(
        "reply",
        [
            refusal(400),
            refusal(401),
            refusal(404),
            Reply([], before=[Cut()]),
            events({"error": {"message": "queue is full", "code": 429}}),
        ],
    )
    async def test_what_fails_before_an_answer_begins_costs_nothing(self, reply: Reply) -> None:
        assert await self.once(reply) == []

    async def test_a_model_that_runs_out_of_time_while_it_reasons_has_used_what_it_wrote(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("domain.application.turns.model_calls.MARGIN_S", 0.5)
        monkeypatch.setattr("domain.application.turns.model_calls.MIN_CALL_TIME_S", 0.1)
        slow = events(chunk(reasoning_content="what was asked "), chunk(reasoning_content="and why"), Pause(30))
        async with answering(slow, TimeLimits()) as (_, models):
            played = await accounted(in_a_row(Node("ask", ask, timeout=2)), models=models)
            assert outcome(await played.say("go")) == "node_failed"
        (called,) = await recorded(played)
        assert (called.finish_reason, called.completion_tokens) == ("interrupted", 5)
        await check_ledger(played)


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_content": "what was asked and why"},
        {"reasoning": "what was asked and why", "reasoning_details": [{"text": "what was asked and why"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "what was asked and why"}]}]},
    ],
)
@pytest.mark.parametrize("text", ["", "so it is"])
async def test_reasoning_counts_where_the_endpoint_reports_nothing(said: dict[str, Any], text: str) -> None:
    reply = events(chunk(**said), chunk(text), chunk(finish="stop"), "[DONE]")
    async with answering(reply) as (_, models):
        played = await accounted(in_a_row(Node("ask", ask)), models=models)
        await played.say("go")
        await check_ledger(played)
    assert {called.completion_tokens >= 5 for called in await recorded(played)} == {True}


AGENTS = ("tests.integration.test_rejected_answers:QUICK",)


@pytest.mark.parametrize("durability", ["sync", "turn", "async"])
async def test_over_http_the_budgets_the_usage_and_the_events_know_of_it(database_url: str, durability: str) -> None:
    async with OpenAIServer(otherwise=UNREADABLE["a part that is no JSON, then the usage"]) as server:
        settings = {"llm_endpoint": server.endpoint, "llm_model": "test-1", "durability": durability}
        async with running_api(database_url=database_url, agents=AGENTS, **settings) as api:
            thread = await api.opened(graph="row")
            await api.put(f"/v1/threads/{thread}/budget", json={"limits": [{"window": "day", "tokens": BUDGET}]})
            turns = [(await api.turn(thread, f"question {n}")).json() for n in range(6)]
            assert await finish_reasons(api, thread) == {"malformed"}
            budget = (await api.get(f"/v1/threads/{thread}/budget")).json()
            usage = (await api.get("/v1/usage", params={"consistency": "strong"})).json()["items"]
    asked = len(server.requests)
    assert BUDGET // EACH - 1 <= asked <= BUDGET // EACH + 1
    assert sum(turn.get("usage", {}).get("calls", 0) for turn in turns) <= asked
    (item,) = usage
    assert item["prompt_tokens"] + item["completion_tokens"] >= (asked - 1) * EACH
    assert str(item["prompt_tokens"] + item["completion_tokens"]) in json.dumps(budget)


async def finish_reasons(api: Api, thread: str) -> set[str]:
    found = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()["items"]
    return {event["data"]["finish_reason"] for event in found if event["type"] == "ModelCalled"}
