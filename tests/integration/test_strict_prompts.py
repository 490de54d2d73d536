"""Odd answers, odd endings of turns: the turns after them still send prompts that a strict endpoint accepts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from domain.prompt.canonical import NO_ANSWER
from tests.fakes.openai_server import Reply, chunk, events, refusal, stream
from tests.support.http import Api, running_api
from tests.support.strict_server import StrictServer, asks, wish

A, B, SLOW = '{"text": "a"}', '{"text": "b"}', '{"text": "slow", "after": 0.2}'
SILENCE = events(chunk("", role="assistant"), chunk(finish="stop"), "[DONE]")


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@asynccontextmanager
async def talking(server: StrictServer, url: str = "memory://") -> AsyncIterator[Api]:
    settings = {"database_url": url, "llm_endpoint": server.endpoint, "agents": ("tests.support.agents:desk",)}
    async with running_api(**settings) as api:
        yield api


async def goes_on(api: Api, thread: str, server: StrictServer) -> None:
    """Three more turns succeed."""
    for text in ("and now?", "go on", "thank you"):
        turn = await api.turn(thread, text)
        assert turn.json()["status"] == "completed", (turn.text, server.refused)
    assert server.refused == []


async def waiting(api: Api, thread: str) -> None:
    async with asyncio.timeout(120):
        while (await api.get(f"/v1/threads/{thread}")).json()["status"] != "waiting":
            await asyncio.sleep(0.02)


def results(prompt: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in prompt if message["role"] == "tool"]


ODD: dict[str, Reply] = {
    "dots in a name": asks(wish("browser.tabs.open", A)),
    "a special token in a name": asks(wish("echo<|channel|>commentary", A)),
    "a name of 8,000 characters": asks(wish("e" * 8_000, A)),
    "a name in Chinese": asks(wish("搜索", A)),
    "a name of a space": asks(wish(" ", A)),
    "names that differ in a dot only": asks(wish("a.b", A, "x"), wish("a_b", A, "y"), wish("a:b", A, "z")),
    "an id of 300 characters": asks(wish("echo", A, "i" * 300)),
    "no id": asks(wish("echo", A, None), wish("echo", B, None)),
    "an empty id": asks(wish("echo", A, "")),
    "an id with spaces": asks(wish("echo", A, "call 1/ü")),
    "two calls with one id": asks(wish("echo", SLOW, "same"), wish("echo", B, "same")),
    "the same call twice": asks(wish("echo", A, "same"), wish("echo", A, "same")),
    "two calls with one valid id": asks(wish("echo", SLOW, "abcdefgh1"), wish("echo", B, "abcdefgh1")),
    "nothing at all": SILENCE,
    "white space": stream(" \n\n "),
    "white space and a call": asks(wish("echo", A), content="\n"),
    "a refused request": refusal(400, "no"),
    "only reasoning": events(chunk(None, reasoning_content="hm"), chunk(finish="stop"), "[DONE]"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_after_an_odd_answer_the_next_turns_succeed(odd: str) -> None:
    script = (stream("Hello."), ODD[odd])
    async with StrictServer(*script, own_fields=["reasoning_content"]) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await api.turn(thread, "hello")
        await api.turn(thread, "do something odd")
        await goes_on(api, thread, server)


async def test_every_answer_reuses_the_same_ids(log_url: str) -> None:
    script = [asks(wish("echo", A), wish("echo", B, None)), stream("Done.")] * 3
    async with StrictServer(*script) as server, talking(server, log_url) as api:
        thread = await api.opened(graph="desk")
        await goes_on(api, thread, server)
        assert results(server.prompts[-1]) == ["echo[a]", "echo[b]"] * 3
        shown = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
        told = [call["id"] for message in shown for call in message.get("tool_calls", ())]
        assert told == ["call_1", "call_2"] * 3, "the transcript shows what was said"


async def test_results_stand_in_the_order_of_the_calls_whichever_came_first() -> None:
    script = asks(wish("echo", SLOW, "same"), wish("echo", B, "same"))
    async with StrictServer(script) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await api.turn(thread, "go")
        happened = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 100})).json()["items"]
        came = [event["data"]["content"] for event in happened if event["type"] == "ToolSucceeded"]
        assert came == ["echo[b]", "echo[slow]"]
        assert results(server.prompts[-1]) == ["echo[slow]", "echo[b]"]


@pytest.mark.parametrize("ids", [("one", "two"), ("same", "same")])
async def test_a_denial_stands_behind_the_call_that_was_denied(log_url: str, ids: tuple[str, str]) -> None:
    """A person denies the first of two payments, after the second one has run, and grants a smaller one."""
    pay = [wish("refund", f'{{"amount": {n}}}', given) for n, given in zip((1, 2), ids, strict=True)]
    async with StrictServer(asks(*pay)) as server, talking(server, log_url) as api:
        thread = await api.opened(graph="desk")
        said = await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "pay"})
        assert said.status_code == 202
        await waiting(api, thread)
        asked = (await api.get(f"/v1/threads/{thread}/approvals")).json()
        first, second = asked["items"]
        for one, decision in (
            (second, {"decision": "grant", "arguments": {"amount": 5}}),
            (first, {"decision": "deny"}),
        ):
            path = f"/v1/threads/{thread}/approvals/{one['approval_id']}"
            answered = await api.post(path, json={"hash": one["hash"], **decision})
            assert answered.is_success, answered.text
        async with asyncio.timeout(120):
            while len(server.prompts) < 2:
                await asyncio.sleep(0.02)
        prompt = server.prompts[-1]
        calls = prompt[-3]["tool_calls"]
        assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"amount": 1}, {"amount": 5}]
        denied, granted = results(prompt)
        assert "refunded 5" in granted
        assert "refunded" not in denied
        assert server.refused == []


async def test_a_cancelled_turn_that_waited_for_a_person(log_url: str) -> None:
    async with StrictServer(asks(wish("refund", '{"amount": 1}'))) as server, talking(server, log_url) as api:
        thread = await api.opened(graph="desk")
        turn = (await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "pay"})).json()["turn_id"]
        await waiting(api, thread)
        await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        await goes_on(api, thread, server)
        assert [m["content"] for m in server.prompts[1] if m["role"] == "assistant"][-1] == NO_ANSWER


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_message_that_ends_a_waiting_turn(strategy: str) -> None:
    async with StrictServer(asks(wish("refund", '{"amount": 1}'))) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "pay"})
        await waiting(api, thread)
        path, said = f"/v1/threads/{thread}/turns", {"user_input": "no, wait", "strategy": strategy}
        assert (await api.post(path, params={"wait": True}, json=said)).json()["status"] == "completed"
        await goes_on(api, thread, server)


async def test_a_turn_that_failed_after_its_tools_ran_is_retried_and_followed_by_others() -> None:
    script = (asks(wish("echo", A)), refusal(400, "no"), refusal(400, "no"))
    async with StrictServer(*script) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        failed = await api.turn(thread, "go")
        assert failed.json()["status"] == "failed"
        retried = await api.post(f"/v1/threads/{thread}/turns/{failed.json()['turn_id']}/retry", params={"wait": True})
        assert retried.json()["status"] == "failed", retried.text
        await goes_on(api, thread, server)


async def test_prompts_grow_at_their_end_through_odd_turns() -> None:
    script = (asks(wish("a.b", A), wish("echo", SLOW, "x")), refusal(400, "no"), refusal(400, "no"), stream("Well."))
    async with StrictServer(*script) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        for text in ("one", "two", "three", "four"):
            await api.turn(thread, text)
        prompts = [prompt[1:] for prompt in server.prompts]
        for before, after in pairwise(prompts):
            assert after[: len(before)] == before


async def test_what_the_model_saw_is_shown_as_it_was_sent() -> None:
    script = (
        asks(wish("a.b", A), wish("echo", B)),
        refusal(400, "no"),
    )
    async with StrictServer(*script) as server, talking(server) as api:
        thread = await api.opened(graph="desk")
        await api.turn(thread, "one")
        turn = (await api.turn(thread, "two")).json()["turn_id"]
        shown = (await api.get(f"/v1/threads/{thread}/context/{turn}")).json()["prompts"][-1]["messages"]
        sent = server.prompts[-1]
        assert [message["role"] for message in shown] == [message["role"] for message in sent]
        assert [message.get("content", "") for message in shown] == [message["content"] for message in sent]
        assert [m.get("tool_call_id") for m in shown] == [m.get("tool_call_id") for m in sent]
