"""Budgets of threads over HTTP: what limits them, what they have spent, now and then."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import let_go
from tests.support.http import Api, running_api
from tests.support.runtime import Clock

PRICES = Path(__file__).parents[1] / "support/prices.json"
AGENTS = tuple(f"tests.support.agents:{name}" for name in ("patient", "cashier"))
Json = dict[str, Any]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, prices=PRICES, agents=AGENTS) as client:
        yield client


async def limited(api: Api, thread: str, *limits: Json, **headers: str) -> Json:
    answer = await api.put(f"/v1/threads/{thread}/budget", json={"limits": limits}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{answer.json()["checkpoint"]}"'
    return dict(answer.json())


async def until(api: Api, thread: str, status: str) -> Json:
    """Wait until a thread is so, and summarise it."""
    async with asyncio.timeout(60):
        while (found := (await api.get(f"/v1/threads/{thread}")).json())["status"] != status:
            await asyncio.sleep(0.02)
    return dict(found)


async def budget(api: Api, thread: str, **params: Any) -> Json:
    answer = await api.get(f"/v1/threads/{thread}/budget", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_budget_says_what_was_spent_and_what_is_left(api: Api) -> None:
    thread = await api.opened()
    before = await budget(api, thread)
    assert (before["limits"], before["over"], before["until"]) == ([], False, None)
    assert [(one["window"], one["tokens"], one["left"]) for one in before["windows"]] == [("lifetime", 0, None)]
    await api.turn(thread, "What is 12 * 3.5?")
    await limited(
        api, thread, {"window": "lifetime", "tokens": 100_000, "cost_usd": 1.5}, {"window": "day", "tokens": 9}
    )
    state, now = (await api.get(f"/v1/threads/{thread}/state")).json(), await budget(api, thread)
    assert now["limits"] == [
        {"window": "day", "tokens": 9, "cost_usd": None, "warn_at": 0.8},
        {"window": "lifetime", "tokens": 100_000, "cost_usd": 1.5, "warn_at": 0.8},
    ]
    day, lifetime = now["windows"]
    spent = state["prompt_tokens"] + state["completion_tokens"]
    cost = (state["prompt_tokens"] * 2.5 + state["completion_tokens"] * 10) / 1_000_000
    assert (day["tokens"], day["left"], day["over"]) == (spent, {"tokens": 0, "cost_usd": None}, True)
    assert lifetime["left"] == {"tokens": 100_000 - spent, "cost_usd": pytest.approx(1.5 - cost)}
    assert [(one["model"], one["calls"]) for one in lifetime["models"]] == [("threadfold-offline", 2)]
    assert (now["over"], now["until"], lifetime["over"]) == (True, day["end"], False)
    assert (await limited(api, thread))["over"] is False


async def test_a_window_that_has_ended_limits_no_more(api: Api) -> None:
    thread = await api.opened()
    await api.turn(thread, "hello")
    await limited(api, thread, {"window": "hour", "tokens": 1})
    then = await budget(api, thread)
    end = datetime.fromisoformat(then["until"])
    assert end - datetime.fromisoformat(then["windows"][0]["start"]) == timedelta(hours=1)
    last = await budget(api, thread, at_time=(end - timedelta(microseconds=1)).isoformat())
    later = await budget(api, thread, at_time=end.isoformat())
    assert (last["over"], later["over"], later["until"]) == (True, False, None)
    assert (later["windows"][0]["tokens"], later["windows"][0]["left"]["tokens"]) == (0, 1)
    assert later["windows"][1]["tokens"] == last["windows"][1]["tokens"] > 0
    ever = await budget(api, thread, at_time="9999-12-31T23:59:59Z")
    assert ever["windows"][0]["end"].startswith("9999-12-31T23:59:59.999999")


async def test_the_budget_of_now_is_that_of_now_and_not_of_the_last_event(api: Api) -> None:
    clock = Clock()
    clock.time = datetime.now(UTC) - timedelta(days=40)
    api.service.runtime.repository.clock = clock
    thread = await api.opened()
    await api.turn(thread, "hello")
    await limited(api, thread, {"window": "month", "tokens": 1})
    version = (await api.get(f"/v1/threads/{thread}")).json()["version"]
    now, then = await budget(api, thread), await budget(api, thread, at_version=version)
    assert (then["over"], now["over"], now["version"]) == (True, False, version)
    assert datetime.fromisoformat(now["at"]) - datetime.fromisoformat(then["at"]) > timedelta(days=39)


async def test_setting_a_budget_is_done_once(api: Api) -> None:
    thread = await api.opened()
    limit = {"window": "day", "tokens": 50}
    first = await limited(api, thread, limit, **{"Idempotency-Key": "k"})
    await api.turn(thread, "hello")
    await limited(api, thread)
    assert await limited(api, thread, limit, **{"Idempotency-Key": "k"}) == first
    assert (await budget(api, thread))["limits"] == []
    other = await api.put(
        f"/v1/threads/{thread}/budget",
        json={"limits": [{"window": "day", "tokens": 51}]},
        headers={"Idempotency-Key": "k"},
    )
    assert other.status_code == 422


async def test_only_who_has_seen_the_last_checkpoint_may_set_a_budget_with_it(api: Api) -> None:
    thread = await api.opened()
    checkpoint = (await budget(api, thread))["checkpoint"]
    body = {"limits": [{"window": "day", "tokens": 5}], "checkpoint_ref": checkpoint}
    assert (await api.put(f"/v1/threads/{thread}/budget", json=body)).status_code == 200
    assert (await api.put(f"/v1/threads/{thread}/budget", json=body)).status_code == 412
    same = await limited(api, thread, {"window": "day", "tokens": 5})
    assert same["version"] == 2, "nothing differs, so nothing is recorded"


async def test_a_turn_that_runs_or_waits_goes_on(api: Api) -> None:
    thread = await api.opened(graph="patient")
    turn = (await api.post(f"/v1/threads/{thread}/turns", json={"user_input": "hello"})).json()["turn_id"]
    running = await limited(api, thread, {"window": "day", "tokens": 1})
    assert running["version"] <= 5
    state = (await api.get(f"/v1/threads/{thread}/state")).json()
    assert (state["status"], state["turn"]["turn_id"]) == ("running", turn)
    let_go(thread)
    ended = await api.post(
        f"/v1/threads/{thread}/turns", params={"wait": True}, json={"user_input": "x", "strategy": "enqueue"}
    )
    assert ended.json()["answer"] == "That is all."
    waiting = await api.opened(graph="cashier")
    await api.post(f"/v1/threads/{waiting}/turns", json={"user_input": "/refund 5"})
    await until(api, waiting, "waiting")
    await limited(api, waiting, {"window": "day", "tokens": 1})
    (asked,) = (await api.get(f"/v1/threads/{waiting}/approvals")).json()["items"]
    decision = {"decision": "grant", "hash": asked["hash"]}
    await api.post(f"/v1/threads/{waiting}/approvals/{asked['approval_id']}", json=decision)
    last = (await until(api, waiting, "idle"))["last_turn"]
    assert (last["outcome"], last["reason"]) == ("failed", "budget_exhausted"), "its model may not be called any more"
    await limited(api, waiting)
    retried = await api.post(f"/v1/threads/{waiting}/turns/{last['turn_id']}/retry", params={"wait": True})
    assert (retried.json()["status"], retried.json()["answer"]) == ("completed", "refund says: refunded 5")


async def test_a_fork_begins_with_its_parents_budget_and_spending(api: Api) -> None:
    parent = await api.opened()
    await api.turn(parent, "hello")
    await limited(api, parent, {"window": "lifetime", "tokens": 1})
    forked = (await api.post(f"/v1/threads/{parent}/fork", json={})).json()["thread_id"]
    theirs, ours = await budget(api, parent), await budget(api, forked)
    assert [ours[key] for key in ("limits", "windows", "over")] == [
        theirs[key] for key in ("limits", "windows", "over")
    ]
    await limited(api, forked)
    assert (await budget(api, parent))["over"]


async def test_a_diff_says_that_a_budget_was_set(api: Api) -> None:
    thread = await api.opened()
    await limited(api, thread, {"window": "month", "tokens": 5_000, "cost_usd": 0.25})
    diff = (await api.get(f"/v1/threads/{thread}/diff", params={"from": 1})).json()
    (told,) = diff["happened"]["items"]
    assert told["sentence"] == "From now on the thread may spend 5,000 tokens and $0.25 a month"
    assert diff["counts"]["events"] == {"BudgetSet": 1}


class TestEnforcing:
    async def test_a_turn_without_budget_ends_with_402_and_goes_on_once_it_is_raised(self, api: Api) -> None:
        thread = await api.opened()
        await limited(api, thread, {"window": "day", "tokens": 100})
        refused = await api.turn(thread, "hello")
        problem = refused.json()
        assert (refused.status_code, problem["type"]) == (402, "urn:threadfold:budget-exhausted")
        assert "The thread may spend 100 tokens a day" in problem["detail"]
        summary = (await api.get(f"/v1/threads/{thread}")).json()
        assert (summary["last_turn"]["outcome"], summary["last_turn"]["reason"]) == ("failed", "budget_exhausted")
        assert (await budget(api, thread))["windows"][0]["tokens"] == 0
        await limited(api, thread, {"window": "day", "tokens": 100_000})
        turn = summary["last_turn"]["turn_id"]
        again = await api.post(f"/v1/threads/{thread}/turns/{turn}/retry", params={"wait": True})
        assert (again.status_code, again.json()["status"]) == (200, "completed")
        assert (await api.turn(thread, "and now?")).status_code == 200

    async def test_what_is_spent_never_passes_the_limit(self, api: Api) -> None:
        thread = await api.opened()
        await limited(api, thread, {"window": "day", "tokens": 4_000})
        answers = [await api.turn(thread, f"hello for the {n}th time") for n in range(12)]
        spent = (await budget(api, thread))["windows"][0]
        assert {answer.status_code for answer in answers} == {200, 402}
        assert 2_500 < spent["tokens"] <= 4_000

    async def test_a_limit_for_each_turn_is_none_for_the_next(self, api: Api) -> None:
        thread = await api.opened()
        await limited(api, thread, {"window": "turn", "tokens": 700})
        assert [(await api.turn(thread, "hello")).status_code for _ in range(3)] == [200, 200, 200]
        await limited(api, thread, {"window": "turn", "tokens": 90})
        assert (await api.turn(thread, "hello")).status_code == 402
        assert (await budget(api, thread))["over"] is False

    async def test_money_limits_as_tokens_do(self, api: Api) -> None:
        thread = await api.opened()
        await limited(api, thread, {"window": "month", "cost_usd": 0.0005})
        assert (await api.turn(thread, "hello")).status_code == 402
        await limited(api, thread, {"window": "month", "cost_usd": 0.05})
        assert (await api.turn(thread, "hello")).status_code == 200

    async def test_most_of_a_budget_is_told_once(self, api: Api) -> None:
        thread = await api.opened()
        await limited(api, thread, {"window": "day", "tokens": 3_000, "warn_at": 0.1})
        for n in range(4):
            await api.turn(thread, f"hello for the {n}th time")
        events = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()["items"]
        told = [event["data"] for event in events if event["type"] == "BudgetThresholdReached"]
        assert [(one["scope"], one["limit"]["tokens"]) for one in told] == [("thread", 3_000)]
        assert 300 <= told[0]["tokens"] < 1_000
