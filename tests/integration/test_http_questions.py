"""Questions of an agent to a person and to the customer over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.http import Api, running_api

AGENT = "tests.support.agents:exchange"


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(log_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=log_url, agents=(AGENT,)) as api:
        yield api


async def question(api: Api, thread: str) -> dict[str, Any]:
    """Wait for the question to a person."""
    async with asyncio.timeout(240):
        while not (found := (await api.get(f"/v1/threads/{thread}/approvals")).json()["items"]):
            await asyncio.sleep(0.02)
    assert len(found) == 1
    return dict(found[0])


async def idle(api: Api, thread: str) -> dict[str, Any]:
    async with asyncio.timeout(240):
        while (summary := (await api.get(f"/v1/threads/{thread}")).json())["status"] != "idle":
            await asyncio.sleep(0.02)
    return dict(summary)


async def asked(api: Api) -> tuple[str, str]:
    """Begin a turn, and answer the customer's question. Returns the thread and the turn."""
    thread = await api.opened(graph="exchange")
    begun = await api.turn(thread, "I want another size")
    assert (begun.status_code, begun.json()["status"]) == (202, "waiting")
    turn = begun.json()["turn_id"]
    answered = await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "A-17"})
    assert answered.status_code == 202
    assert answered.json()["turn_id"] == turn, "the answer belongs to the turn that asked"
    return thread, str(turn)


async def answer(api: Api, thread: str, shown: dict[str, Any], **body: object) -> Any:
    path = f"/v1/threads/{thread}/approvals/{shown['approval_id']}"
    return await api.post(path, json={"hash": shown["hash"], "decision": "answer", **body})


async def test_the_customer_and_a_person_answer_one_turn(api: Api) -> None:
    thread, turn = await asked(api)
    shown = await question(api, thread)
    assert (shown["because"], shown["question"], shown["node"]) == ("question", "Exchange A-17?", "ask")
    assert shown["answer_schema"]["required"] == ["approved"]
    listed = (await api.get("/v1/threads", params={"status": "waiting"})).json()["items"]
    if listed:  # the read model may be behind
        assert listed[0]["waiting_for"][0]["because"] == "question"
    decided = await answer(api, thread, shown, answer={"approved": True, "size": 3})
    assert decided.json()["decision"] == "answered"
    await idle(api, thread)
    messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", "I want another size"),
        ("assistant", "Which order?"),
        ("user", "A-17"),
        ("assistant", "A-17 in 3"),
    ]
    ends = [e for e in (await api.get(f"/v1/threads/{thread}/events")).json()["items"] if e["type"] == "TurnCompleted"]
    assert [end["data"]["turn_id"] for end in ends] == [turn]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"approved": "perhaps"}, "answer.approved"),
        ({"approved": True, "size": 10}, "answer.size"),
        ({}, "answer"),
        ("yes", "answer"),
        (None, "answer"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_changes_nothing(api: Api, given: object, field: str) -> None:
    thread, _ = await asked(api)
    shown = await question(api, thread)
    refused = await answer(api, thread, shown, answer=given)
    assert refused.status_code == 400, refused.text
    assert refused.json()["errors"][0]["field"] == field
    assert await question(api, thread) == shown


async def test_other_bad_answers(api: Api) -> None:
    thread, _ = await asked(api)
    shown = await question(api, thread)
    assert (await answer(api, thread, shown)).json()["errors"][0]["field"] == "answer"
    assert (await answer(api, thread, {**shown, "hash": "other"}, answer={"approved": True})).status_code == 409
    assert (await answer(api, thread, {**shown, "approval_id": 3}, answer={"approved": True})).status_code == 404
    path = f"/v1/threads/{thread}/approvals/{shown['approval_id']}"
    both = {"hash": shown["hash"], "decision": "grant", "answer": True}
    assert (await api.post(path, json=both)).json()["errors"][0]["field"] == "answer"
    granted = await api.post(path, json={"hash": shown["hash"], "decision": "grant"})
    assert (granted.status_code, granted.json()["errors"][0]["field"]) == (400, "decision")
    assert await question(api, thread) == shown
    first = await answer(api, thread, shown, answer={"approved": False})
    assert first.status_code == 200
    assert (await answer(api, thread, shown, answer={"approved": True})).status_code == 404


async def test_a_repeated_answer_of_the_customer_is_one_answer(api: Api) -> None:
    thread = await api.opened(graph="exchange")
    turn = (await api.turn(thread, "I want another size")).json()["turn_id"]
    path, key = f"/v1/threads/{thread}/turns", {"Idempotency-Key": "answer-1"}
    answers = [await api.post(path, json={"user_input": "A-17"}, headers=key) for _ in range(3)]
    assert [one.json()["turn_id"] for one in answers] == [turn] * 3
    shown = await question(api, thread)
    assert shown["question"] == "Exchange A-17?"
    messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
    assert [m["content"] for m in messages].count("A-17") == 1
