"""Answers that are none, or not whole: how a turn ends then, and where that can be seen. The endpoint is real HTTP."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.graph import Node, RetryPolicy
from domain.application.turns.model_registry import ModelRegistry
from domain.json import Json
from domain.models.answers import EMPTY_HINT, LENGTH_HINT
from domain.models.routing import ModelSpec
from domain.thread.events import Durability, Limit, MessageAppended, NodeEvent, NodeFailed, TurnCompleted, TurnFailed
from infrastructure.models.openai.client import OpenAIChatModel
from tests.fakes.openai_server import USAGE, OpenAIServer, Reply, chunk, completion, events, stream
from tests.support.runtime import Stage, double, one_node
from tests.support.spending import (
    accounted,
    ask,
    budgeted,
    check_ledger,
    failures,
    in_a_row,
    outcome,
    policy,
    recorded,
)
from tests.support.storing import run

AT_ONCE = RetryPolicy(3, first_delay=0.001)
QUICK = in_a_row(Node("ask", ask, retry=AT_ONCE))


def told(*chunks: Any, finish: str | None = "stop") -> Reply:
    """Stream chunks, the end and the usage."""
    return events(*chunks, chunk(finish=finish), USAGE, "[DONE]")


NOTHING: dict[str, Reply] = {
    "nothing at all": told(chunk("", role="assistant")),
    "no chunk but the end": told(),
    "spaces": told(chunk(" \n\n ")),
    "reasoning_content only": told(chunk(reasoning_content="I think that it is hello")),
    "reasoning only": told(chunk("", reasoning="I think that it is hello")),
    "reasoning in the text": told(chunk("<think>It is hel"), chunk("lo</think>\n")),
    "an end for calls, and no call": told(chunk(""), finish="tool_calls"),
    "an empty list of calls": told(chunk("", tool_calls=[])),
    "as a whole": completion(""),
    "as a whole, null": completion(None),
    "an unknown end": told(finish="because"),
}
TOO_SHORT = told(chunk(reasoning_content="I think that"), finish="length")
BROKEN = told(chunk("hel"), finish="error")


@asynccontextmanager
async def answering(
    *script: Reply, otherwise: Reply, agent: Agent = QUICK, **more: Any
) -> AsyncIterator[tuple[OpenAIServer, Stage]]:
    """Set the stage for a model that answers by a script."""
    async with OpenAIServer(*script, otherwise=otherwise) as server:
        models = ModelRegistry.alone(OpenAIChatModel(server.endpoint, None, "test-1"), "test-1")
        try:
            yield server, await accounted(agent, models=models, **more)
        finally:
            await models.close()


async def said(played: Stage) -> list[tuple[str | None, str]]:
    """What was said, and how each ended."""
    return [(one.content, one.finish) for one in await played.happened(MessageAppended)]  # type: ignore[attr-defined]


async def end_of(played: Stage) -> TurnCompleted | TurnFailed:
    (end,) = await played.happened(TurnCompleted, TurnFailed)
    assert isinstance(end, TurnCompleted | TurnFailed)
    return end


class TestNoAnswer:
    @pytest.mark.parametrize("nothing", NOTHING)
    async def test_it_is_asked_for_once_more_with_a_hint(self, nothing: str) -> None:
        async with answering(NOTHING[nothing], otherwise=stream("Hel", "lo")) as (server, played):
            assert outcome(await played.say("Well?")) == "completed"
            first, second = (request.body["messages"] for request in server.requests)
            assert second == [*first[:-1], {**first[-1], "content": f"{first[-1]['content']}\n\n{EMPTY_HINT}"}]
            assert (await end_of(played)).reason is None
            assert [called.hint for called in await recorded(played)] == ["", EMPTY_HINT]
            assert await said(played) == [("Well?", ""), ("Hello", "")]
            assert len(await failures(played)) == 1
            await check_ledger(played)

    @pytest.mark.parametrize("durability", ["sync", "turn", "async"])
    @pytest.mark.parametrize("nothing", NOTHING)
    async def test_after_that_the_turn_fails_and_nothing_is_multiplied(
        self, nothing: str, durability: Durability
    ) -> None:
        async with answering(otherwise=NOTHING[nothing]) as (server, played):
            await run(played, durability)
            end = await end_of(played)
            assert isinstance(end, TurnFailed)
            assert (end.reason, "asked again" in end.detail) == ("empty_answer", True)
            assert len(server.requests) == 2
            assert len(await recorded(played)) == len(await failures(played)) == 2
            assert len(await played.happened(NodeFailed)) == 1
            assert len(await played.happened(MessageAppended)) == 1
            await check_ledger(played)

    async def test_a_second_attempt_that_fails_otherwise_is_no_reason_for_more(self) -> None:
        async with answering(NOTHING["spaces"], otherwise=BROKEN) as (server, played):
            await played.say("Well?")
            end = await end_of(played)
            assert isinstance(end, TurnFailed)
            assert (end.reason, len(server.requests)) == ("empty_answer", 2)

    async def test_a_model_that_had_no_room_to_answer_gets_more(self) -> None:
        async with answering(TOO_SHORT, otherwise=stream("Hello")) as (server, played):
            assert outcome(await played.say("Well?")) == "completed"
            first, second = (request.body for request in server.requests)
            assert second["max_tokens"] > 2 * first["max_tokens"]
            assert second["messages"][-1]["content"].endswith(LENGTH_HINT)
            await check_ledger(played)

    async def test_the_operator_s_limit_holds_even_so(self) -> None:
        async with OpenAIServer(TOO_SHORT, otherwise=stream("Hello")) as server:
            model = OpenAIChatModel(server.endpoint, None, "test-1")
            models = ModelRegistry(policy(a=ModelSpec("p", "m", max_answer=300)), {"p": model})
            played = await accounted(QUICK, models=models)
            assert outcome(await played.say("Well?")) == "completed"
            await models.close()
        assert [request.body["max_tokens"] for request in server.requests] == [300, 300]

    async def test_another_model_is_asked_before_the_turn_fails(self) -> None:
        async with OpenAIServer(otherwise=NOTHING["spaces"]) as one, OpenAIServer(otherwise=stream("Hello")) as other:
            models = ModelRegistry(
                policy(a=ModelSpec("one", "big"), b=ModelSpec("other", "small")),
                {
                    "one": OpenAIChatModel(one.endpoint, None, "big"),
                    "other": OpenAIChatModel(other.endpoint, None, "small"),
                },
            )
            played = await accounted(QUICK, models=models)
            assert outcome(await played.say("Well?")) == "completed"
            await models.close()
        assert (len(one.requests), len(other.requests)) == (2, 1)
        assert (await recorded(played))[-1].because == "a of one gave no answer"
        await check_ledger(played)

    async def test_a_budget_has_to_have_room_for_it(self) -> None:
        nothing = completion("", usage={"prompt_tokens": 60, "completion_tokens": 300})
        async with answering(otherwise=nothing) as (server, played):
            await budgeted(played, Limit("lifetime", 450))
            assert outcome(await played.say("Well?")) == "budget_exhausted"
            assert len(server.requests) == 1
            await check_ledger(played)

    async def test_items_are_asked_for_once_more_each(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            async def each(item: ItemContext, number: Json) -> Json:
                return await item.ask(f"What is {number}?")

            await turn.map([1, 2], each, at_once=1, retry=AT_ONCE)
            return ()

        agent = one_node(work, retry=AT_ONCE, timeout=60)
        script = (NOTHING["spaces"], stream("one"))
        async with answering(*script, otherwise=NOTHING["spaces"], agent=agent) as (server, played):
            assert outcome(await played.say("go")) == "empty_answer"
            assert len(server.requests) == 4
            await check_ledger(played)


class TestOtherEnds:
    async def test_an_answer_that_is_cut_at_its_longest_stands_and_the_turn_says_so(self) -> None:
        async with answering(otherwise=told(chunk("hello, this is"), finish="length")) as (server, played):
            assert outcome(await played.say("Well?")) == "length"
            assert isinstance(await end_of(played), TurnCompleted)
            assert await said(played) == [("Well?", ""), ("hello, this is", "length")]
            assert len(server.requests) == 1

    async def test_what_is_said_after_that_makes_up_for_it(self) -> None:
        async def say(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say("That is all.")]

        agent = in_a_row(Node("ask", ask), Node("say", say))
        async with answering(otherwise=told(chunk("hello, this"), finish="length"), agent=agent) as (_, played):
            assert outcome(await played.say("Well?")) == "completed"

    @pytest.mark.parametrize("text", ["Well, you", ""])
    async def test_an_answer_that_is_filtered_is_no_success_and_not_asked_for_again(self, text: str) -> None:
        reply = told(chunk(text), finish="content_filter")
        async with answering(otherwise=reply) as (server, played):
            assert outcome(await played.say("Well?")) == "content_filter"
            assert len(server.requests) == 1
            assert await said(played) == [("Well?", "")]
            await check_ledger(played)

    async def test_an_answer_that_broke_off_is_tried_again_as_any_that_is_cut(self) -> None:
        async with answering(BROKEN, otherwise=stream("Hello")) as (server, played):
            assert outcome(await played.say("Well?")) == "completed"
            assert len(server.requests) == 2
            assert [called.finish_reason for called in await recorded(played)] == ["error", "stop"]
            await check_ledger(played)

    async def test_an_answer_that_breaks_off_every_time_fails_the_turn(self) -> None:
        async with answering(otherwise=BROKEN) as (server, played):
            assert outcome(await played.say("Well?")) == "node_failed"
            assert len(server.requests) == 3
            assert await said(played) == [("Well?", "")]

    @pytest.mark.parametrize(
        "reply",
        [
            told(chunk(None, refusal="I can"), chunk(None, refusal="not.")),
            completion(choices=[{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]),
            told(chunk("I cannot."), finish="refusal"),
        ],
    )
    async def test_a_model_may_refuse_and_is_heard(self, reply: Reply) -> None:
        async with answering(otherwise=reply) as (_, played):
            assert outcome(await played.say("Well?")) == "refusal"
            assert await said(played) == [("Well?", ""), ("I cannot.", "refusal")]

    async def test_an_end_of_another_name_is_told_and_recorded(self) -> None:
        async with answering(otherwise=told(chunk("hello"), finish="because")) as (_, played):
            assert outcome(await played.say("Well?")) == "unknown_finish"
            assert (await recorded(played))[0].finish_reason == "because"


LEGACY = {"name": "double", "arguments": '{"number": 21}'}


@pytest.mark.parametrize(
    "reply",
    [
        told(chunk(None, role="assistant", function_call=LEGACY), finish="function_call"),
        told(
            chunk(None, function_call={"name": "double", "arguments": ""}),
            chunk(None, function_call={"arguments": '{"num'}),
            chunk(None, function_call={"arguments": 'ber": 21}'}),
            finish="function_call",
        ),
        completion(choices=[{"message": {"content": None, "function_call": LEGACY}, "finish_reason": "function_call"}]),
        told(
            chunk(None, function_call=LEGACY, tool_calls=[{"index": 0, "id": "a", "function": LEGACY}]),
            finish="tool_calls",
        ),
    ],
)
async def test_a_call_in_the_form_of_old_is_run(reply: Reply) -> None:
    async def act(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.run_tools()
        return ()

    agent = in_a_row(Node("ask", ask), Node("act", act), Node("again", ask), tools=[double])
    async with answering(reply, otherwise=stream("It is 42."), agent=agent) as (server, played):
        assert outcome(await played.say("double 21")) == "completed"
        assert server.requests[1].body["messages"][-1]["content"] == "42"
