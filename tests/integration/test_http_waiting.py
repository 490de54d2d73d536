"""`wait=true` does not wait for people: it answers as soon as the thread waits for a decision."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.http import Api, running_api

AGENTS = tuple(f"tests.support.agents:{name}" for name in ("slow", "clumsy", "cashier", "exchange"))

LIMIT = 30.0
"""Seconds within which an answer must come: a request that waits for a person would take ten minutes."""

REFUND = '/refund {"amount": 5}'


@pytest.fixture(params=["memory", "postgres", "two processes"])
def place(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """Name a log, and say whether another process runs the turns than the one that is asked."""
    url = "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))
    return url, request.param == "two processes"


@pytest.fixture
async def apis(place: tuple[str, bool]) -> AsyncIterator[tuple[Api, Api]]:
    """Give the API to ask, and another way to the same log: of two, the one that was first runs the turns."""
    url, two = place
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_api(database_url=url, agents=AGENTS))
        yield (await stack.enter_async_context(running_api(database_url=url, agents=AGENTS)) if two else first), first


async def say(api: Api, thread: str, text: str, **more: object) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        body = {"user_input": text, **more}
        answer = await api.post(f"/v1/threads/{thread}/turns", params={"wait": True}, json=body)
    assert answer.status_code in {200, 202}, answer.text
    return {**answer.json(), "code": answer.status_code}


async def approvals(api: Api, thread: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"]
    return found


async def test_the_answer_comes_when_the_turn_waits(apis: tuple[Api, Api]) -> None:
    api, other = apis
    thread = await api.opened(graph="cashier")
    answer = await say(api, thread, REFUND)
    assert (answer["code"], answer["status"]) == (202, "waiting")
    assert answer["approvals"] == await approvals(other, thread)
    assert answer["approvals"][0]["tool"] == "refund"
    assert answer["checkpoint"] == (await other.get(f"/v1/threads/{thread}")).json()["checkpoint"]


@pytest.mark.parametrize("durability", ["sync", "turn", "async"])
async def test_of_any_durability_and_for_a_node(apis: tuple[Api, Api], durability: str) -> None:
    api, other = apis
    thread = await api.opened(graph="clumsy")
    answer = await say(api, thread, "please sign", durability=durability)
    assert (answer["code"], answer["status"]) == (202, "waiting")
    (waits,) = await approvals(other, thread)
    assert answer["approvals"] == [waits]
    assert waits["node"] == "sign"


async def test_a_turn_behind_one_that_waits_is_queued(apis: tuple[Api, Api]) -> None:
    api, _ = apis
    thread = await api.opened(graph="cashier")
    first = await say(api, thread, REFUND)
    queued = await say(api, thread, "and hello", strategy="enqueue")
    assert (queued["code"], queued["status"], queued["approvals"]) == (202, "enqueued", first["approvals"])


async def test_a_turn_that_is_queued_before_the_other_waits_is_answered_then(apis: tuple[Api, Api]) -> None:
    api, other = apis
    thread = await api.opened(graph="slow")
    answers = await asyncio.gather(*(say(api, thread, f"{n}", strategy="enqueue") for n in range(3)))
    assert {answer["code"] for answer in answers} == {200}
    thread = await api.opened(graph="clumsy")
    answers = await asyncio.gather(*(say(api, thread, "sign this", strategy="enqueue") for _ in range(3)))
    assert sorted(answer["status"] for answer in answers) == ["enqueued", "enqueued", "waiting"]
    assert len({str(answer["approvals"]) for answer in answers}) == 1
    assert await approvals(other, thread)


async def test_repeating_a_request_of_a_turn_that_waits(apis: tuple[Api, Api]) -> None:
    api, _ = apis
    thread, key = await api.opened(graph="cashier"), {"Idempotency-Key": "once"}
    path, body = f"/v1/threads/{thread}/turns", {"user_input": REFUND}
    async with asyncio.timeout(LIMIT):
        first = await api.post(path, params={"wait": True}, json=body, headers=key)
        again = await api.post(path, params={"wait": True}, json=body, headers=key)
    assert first.json()["status"] == "waiting"
    assert again.json() == first.json()


async def test_a_repeated_request_gets_its_own_turn_while_a_later_one_waits(apis: tuple[Api, Api]) -> None:
    thread, key = await apis[0].opened(graph="cashier"), {"Idempotency-Key": "once"}
    path, body = f"/v1/threads/{thread}/turns", {"user_input": "hello"}
    async with asyncio.timeout(LIMIT):
        first = await apis[0].post(path, params={"wait": True}, json=body, headers=key)
        assert first.json()["status"] == "completed"
        assert (await say(apis[0], thread, REFUND))["status"] == "waiting"
        for api in apis:
            again = await api.post(path, params={"wait": True}, json=body, headers=key)
            assert (again.status_code, again.json()["answer"]) == (200, first.json()["answer"]), again.text


async def test_a_turn_that_is_decided_about_goes_on_and_can_be_cancelled(apis: tuple[Api, Api]) -> None:
    api, other = apis
    thread = await api.opened(graph="cashier")
    answer = await say(api, thread, REFUND)
    (waits,) = answer["approvals"]
    decided = {"decision": "grant", "hash": waits["hash"]}
    await other.post(f"/v1/threads/{thread}/approvals/{waits['approval_id']}", json=decided)
    finished = await say(api, thread, "hello", strategy="enqueue")
    assert (finished["code"], finished["status"]) == (200, "completed")
    assert "refunded 5" in (await api.get(f"/v1/threads/{thread}/messages")).text

    waiting = await say(api, thread, REFUND)
    async with asyncio.timeout(LIMIT):
        ended = await api.post(f"/v1/threads/{thread}/turns/{waiting['turn_id']}/cancel", params={"wait": True})
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")


async def decide(api: Api, thread: str, waits: dict[str, Any], **decided: Any) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        path, key = f"/v1/threads/{thread}/approvals/{waits['approval_id']}", decided.pop("key", None)
        headers = {"Idempotency-Key": key} if key else {}
        body = {"hash": waits["hash"], **decided}
        answer = await api.post(path, params={"wait": True}, json=body, headers=headers)
    return {**answer.json(), "code": answer.status_code}


@pytest.mark.parametrize(
    ("decided", "result"),
    [
        ({"decision": "grant"}, "refunded 5"),
        ({"decision": "grant", "arguments": {"amount": 7}}, "refunded 7"),
        ({"decision": "deny", "reason": "too late"}, "too late"),
    ],
)
async def test_a_decision_is_answered_with_the_turn(
    apis: tuple[Api, Api], decided: dict[str, Any], result: str
) -> None:
    api, _ = apis
    thread = await api.opened(graph="cashier")
    started = await say(api, thread, REFUND)
    finished = await decide(api, thread, started["approvals"][0], **decided, key="once")
    assert (finished["code"], finished["status"], finished["turn_id"]) == (200, "completed", started["turn_id"])
    assert result in str(finished["messages"])

    await say(api, thread, "hello")
    later = await say(api, thread, REFUND)
    repeated = await decide(api, thread, started["approvals"][0], **decided, key="once")
    assert (repeated["turn_id"], later["status"]) == (started["turn_id"], "waiting")
    refused = await decide(api, thread, {**later["approvals"][0], "hash": "0" * 16}, decision="grant")
    assert refused["code"] == 409


async def test_an_answer_to_a_question_is_answered_with_the_turn(apis: tuple[Api, Api]) -> None:
    api, _ = apis
    thread = await api.opened(graph="exchange")
    turn = (await say(api, thread, "exchange it"))["turn_id"]
    (asked,) = (await say(api, thread, "A-17"))["approvals"]
    unfit = await decide(api, thread, asked, decision="answer", answer={"approved": "perhaps"})
    assert unfit["code"] == 400
    finished = await decide(api, thread, asked, decision="answer", answer={"approved": True, "size": 3})
    assert (finished["code"], finished["status"], finished["turn_id"]) == (200, "completed", turn)
    assert finished["messages"][-1]["content"] == "A-17 in 3"


async def test_a_granted_node_is_answered_with_the_turn(apis: tuple[Api, Api]) -> None:
    api, _ = apis
    thread = await api.opened(graph="clumsy")
    started = await say(api, thread, "please sign")
    finished = await decide(api, thread, started["approvals"][0], decision="grant")
    assert (finished["code"], finished["turn_id"]) == (200, started["turn_id"])
    assert finished["status"] in {"completed", "failed"}


async def test_a_retried_turn_that_waits(apis: tuple[Api, Api]) -> None:
    api, _ = apis
    thread = await api.opened(graph="cashier")
    turn = (await say(api, thread, REFUND))["turn_id"]
    await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
    async with asyncio.timeout(LIMIT):
        retried = await api.post(f"/v1/threads/{thread}/turns/{turn}/retry", params={"wait": True})
    assert retried.status_code in {200, 202}


async def test_an_answer_says_that_it_is_truncated_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_api(database_url="memory://") as api:
        thread = await api.opened()
        whole = await say(api, thread, "/calculate 6 * 7")
        monkeypatch.setattr("domain.application.turns.wait.MAX_EVENT_BYTES", 10)
        cut = await say(api, thread, "/calculate 6 * 7")
    assert "truncated" not in whole
    assert cut["truncated"] is True
    assert len(cut["messages"]) < len(whole["messages"])
