"""Limits of subjects (the customers that threads are about), and budgets that threads are opened with, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.http import Api, running_api

PRICES = Path(__file__).parents[1] / "support/prices.json"
MUCH = 10**9
Json = dict[str, Any]
ODD = ["", " ", "x" * 10_240, "a\0b", "customer\u202e71", "\u2066a", "zero\u200bwidth", "two\nlines", " 17"]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, prices=PRICES) as client:
        yield client


async def limited(api: Api, *limits: Json, **scope: str) -> Json:
    answer = await api.put("/v1/limits", json={**scope, "limits": limits})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def said(api: Api, **opening: Any) -> tuple[str, Json]:
    """Open a thread by a message, and wait for the turn's end."""
    answer = await api.post("/v1/agent/invoke", json={"user_input": "What is 2 + 3?", **opening})
    assert answer.status_code == 202, answer.text
    thread, turn = answer.json()["thread_id"], answer.json()["turn_id"]
    while True:
        last = (await api.get(f"/v1/threads/{thread}")).json()["last_turn"]
        if last and last["turn_id"] == turn:
            return thread, dict(last)
        await asyncio.sleep(0.01)


async def test_a_limit_counts_the_threads_about_its_subject_and_no_others(api: Api) -> None:
    await said(api, subject="ada")
    before = await limited(api, {"window": "lifetime", "tokens": MUCH}, subject="ada")
    (scope,) = before["scopes"]
    spent = scope["limits"][0]["now"]["spent"]
    assert (scope["subject"], scope["agent"], scope["model"]) == ("ada", None, None)
    assert spent["tokens"] > 0, "what was spent before counts"
    await limited(api, {"window": "day", "tokens": MUCH}, subject="ada", agent="assistant")
    await limited(api, {"window": "day", "tokens": MUCH}, subject="ada", agent="assistant", model="none")
    await limited(api, {"window": "day", "tokens": MUCH}, subject="bob")
    await said(api, subject="ada")
    await said(api, subject="eve")
    await said(api)
    found = {
        (one["subject"], one["agent"], one["model"]): one["limits"][0]["now"]["spent"]["tokens"]
        for one in (await api.get("/v1/limits")).json()["scopes"]
    }
    own = found["ada", None, None]
    assert own > spent["tokens"]
    assert found == {
        ("ada", None, None): own,
        ("ada", "assistant", None): own,
        ("ada", "assistant", "none"): 0,
        ("bob", None, None): 0,
    }
    (bob,) = (await api.get("/v1/limits", params={"subject": "bob"})).json()["scopes"]
    assert bob["subject"] == "bob"
    assert [one["subject"] for one in (await api.get("/v1/limits/history")).json()] == ["bob", "ada", "ada", "ada"]
    assert len((await api.get("/v1/limits/history", params={"subject": "ada"})).json()) == 3
    sums = {"window": "lifetime", "group_by": "subject", "consistency": "strong"}
    spending = {one["subject"]: one["tokens"] for one in (await api.get("/v1/budgets", params=sums)).json()}
    assert spending["ada"] == own
    assert spending.keys() == {"ada", "eve", ""}
    (only,) = (await api.get("/v1/budgets", params={**sums, "subject": "ada"})).json()
    assert only["tokens"] == own


async def test_a_subject_that_has_spent_its_limit_gets_no_more_and_others_do(api: Api) -> None:
    await limited(api, {"window": "day", "tokens": 60}, subject="ada")
    thread, ended = await said(api, subject="ada")
    assert ended["reason"] == "budget_exhausted"
    assert "The subject 'ada'" in ended["detail"]
    answer = await api.post(f"/v1/threads/{thread}/turns", params={"wait": "true"}, json={"user_input": "Hello?"})
    assert answer.status_code == 402
    fork = (await api.post(f"/v1/threads/{thread}/fork", json={})).json()["thread_id"]
    answer = await api.post(f"/v1/threads/{fork}/turns", params={"wait": "true"}, json={"user_input": "Hello?"})
    assert answer.status_code == 402, "a fork is about the same subject"
    for opening in ({"subject": "bob"}, {}):
        assert (await said(api, **opening))[1]["outcome"] == "completed"


async def test_a_turn_may_spend_what_its_subject_may(api: Api) -> None:
    await limited(api, {"window": "turn", "tokens": 60}, subject="ada")
    assert (await said(api, subject="ada"))[1]["reason"] == "budget_exhausted"
    assert (await said(api, subject="bob"))[1]["outcome"] == "completed"


async def test_a_warning_names_the_subject(api: Api) -> None:
    await limited(api, {"window": "day", "tokens": 10**6, "warn_at": 1e-6}, subject="ada")
    thread, _ = await said(api, subject="ada")
    events = (await api.get(f"/v1/threads/{thread}/events")).json()["items"]
    (warning,) = (event for event in events if event["type"] == "BudgetThresholdReached")
    assert (warning["data"]["scope"], warning["data"]["subject"]) == ("tenant", "ada")


@pytest.mark.parametrize("route", ["/v1/threads", "/v1/agent/invoke"])
async def test_a_thread_is_opened_with_a_budget(api: Api, route: str) -> None:
    limits = [{"window": "lifetime", "tokens": 60}, {"window": "day", "cost_usd": 2}]
    thread, more = str(uuid4()), {"user_input": "What is 2 + 3?"} if "invoke" in route else {}
    body = {**more, "thread_id": thread, "subject": "ada", "values": {"order": 7}, "limits": limits}
    answer = await api.post(route, json=body)
    assert answer.status_code in {201, 202}, answer.text
    budget = (await api.get(f"/v1/threads/{thread}/budget")).json()
    assert [(one["window"], one["tokens"], one["cost_usd"]) for one in budget["limits"]] == [
        ("day", None, 2),
        ("lifetime", 60, None),
    ]
    state = (await api.get(f"/v1/threads/{thread}/state")).json()
    assert (state["subject"], state["values"]) == ("ada", {"order": 7})
    answer = await api.post(
        f"/v1/threads/{thread}/turns", params={"wait": "true"}, json={"user_input": "Hello?", "strategy": "enqueue"}
    )
    assert answer.status_code == 402, answer.text
    await api.put(f"/v1/threads/{thread}/budget", json={"limits": []})
    opening = {"thread_id": thread, "subject": "ada", "values": {"order": 7}}
    again = await api.post("/v1/threads", json={**opening, "limits": limits[::-1]})
    assert again.status_code == 200, "it was opened so, whatever its budget is now"
    others: list[Json] = [{"limits": []}, {"limits": limits[:1]}, {"limits": limits, "subject": "bob"}]
    for other in others:
        assert (await api.post("/v1/threads", json={**opening, **other})).status_code == 409


async def test_a_message_to_an_open_thread_may_repeat_what_it_was_opened_with(api: Api) -> None:
    limits = [{"window": "day", "tokens": MUCH}]
    opening = {"subject": "ada", "values": {"order": 7}, "limits": limits}
    thread, _ = await said(api, **opening)
    for same in ({}, {"subject": "ada"}, {"values": {"order": 7}}, {"limits": limits}, opening):
        assert (await said(api, thread_id=thread, **same))[1]["outcome"] == "completed"
    head = (await api.get(f"/v1/threads/{thread}")).json()["version"]
    others: list[Json] = [{"subject": "bob"}, {"values": {}}, {"limits": []}]
    for other in others:
        body = {"user_input": "Hello?", "thread_id": thread, **other}
        answer = await api.post("/v1/agent/invoke", json=body)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:threadfold:thread-already-open")
    assert (await api.get(f"/v1/threads/{thread}")).json()["version"] == head


async def test_a_fork_may_have_a_budget_of_its_own(api: Api) -> None:
    thread, _ = await said(api, limits=[{"window": "day", "tokens": MUCH}])
    for given, expected in (({}, [MUCH]), ({"limits": [{"window": "day", "tokens": 9}]}, [9]), ({"limits": []}, [])):
        fork = (await api.post(f"/v1/threads/{thread}/fork", json=given)).json()["thread_id"]
        budget = (await api.get(f"/v1/threads/{fork}/budget")).json()
        assert [one["tokens"] for one in budget["limits"]] == expected


@pytest.mark.parametrize("subject", ODD)
async def test_an_odd_subject_is_refused_by_its_name_and_changes_nothing(api: Api, subject: str) -> None:
    thread = str(uuid4())
    for method, path, body in (
        ("POST", "/v1/threads", {"thread_id": thread}),
        ("POST", "/v1/agent/invoke", {"thread_id": thread, "user_input": "Hello?"}),
        ("PUT", "/v1/limits", {"limits": [{"window": "day", "tokens": 5}]}),
    ):
        answer = await api.request(method, path, json={**body, "subject": subject})
        assert answer.status_code == 400, (path, answer.text)
        assert [error["field"] for error in answer.json()["errors"]] == ["subject"]
    assert (await api.get(f"/v1/threads/{thread}")).status_code == 404
    assert (await api.get("/v1/limits/history")).json() == []


@pytest.mark.parametrize("route", ["/v1/threads", "/v1/agent/invoke"])
@pytest.mark.parametrize(
    ("opening", "field"),
    [
        ({"limits": [{"window": "day"}]}, "limits.0"),
        ({"limits": [{"window": "day", "tokens": 0}]}, "limits.0.tokens"),
        ({"limits": [{"window": "day", "tokens": 5}, {"window": "day", "tokens": 6}]}, "limits.1.window"),
        ({"limits": {"window": "day"}}, "limits"),
        ({"values": [1]}, "values"),
        ({"values": {"a": "\0"}}, "values.a"),
        ({"subject": 17}, "subject"),
    ],
)
async def test_an_opening_that_is_not_accepted_opens_nothing(api: Api, route: str, opening: Json, field: str) -> None:
    thread = str(uuid4())
    more = {"user_input": "Hello?"} if "invoke" in route else {}
    answer = await api.post(route, json={"thread_id": thread, **more, **opening})
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert (await api.get(f"/v1/threads/{thread}")).status_code == 404
