"""Turns as a resource over HTTP: listed by how they ended, what they took, called and cost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.agents import let_go
from tests.support.http import Api, running_api
from tests.support.reading import strong, talk, wrong

PRICES = Path(__file__).parents[1] / "support/prices.json"
AGENTS = tuple(f"tests.support.agents:{name}" for name in ("patient", "cashier", "clumsy", "exchange"))
Json = dict[str, Any]


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url, prices=PRICES, agents=AGENTS) as client:
        yield client


async def turns(api: Api, thread: str | None = None, **params: Any) -> list[Json]:
    path = "/v1/turns" if thread is None else f"/v1/threads/{thread}/turns"
    return list((await strong(api, path, **params))["items"])


async def test_a_thread_that_failed_once_and_went_on_is_found(api: Api) -> None:
    thread, other = await api.opened(graph="clumsy"), await talk(api, "hello")
    failed = (await api.turn(thread, "please fail")).json()
    retried = (await api.post(f"/v1/threads/{thread}/turns/{failed['turn_id']}/retry", params={"wait": True})).json()
    await api.turn(thread, "and now")

    assert (await api.get(f"/v1/threads/{thread}")).json()["last_turn"]["outcome"] == "completed"
    found = await turns(api, outcome="failed", reason="node_failed", graph="clumsy")
    assert [one["turn_id"] for one in found] == [retried["turn_id"], failed["turn_id"]]
    assert {one["thread_id"] for one in found} == {thread}
    again, first = found
    assert (first["retries"], again["retries"]) == (None, failed["turn_id"])
    assert (first["node"], first["user_input"], again["user_input"]) == ("note", "please fail", "please fail")
    assert (first["detail"], first["answer"]) == (failed["detail"][:200], None)
    assert [one["outcome"] for one in await turns(api, thread, order="asc")] == ["failed", "failed", "completed"]
    assert [one["thread_id"] for one in await turns(api, graph="assistant")] == [other]
    assert await wrong(api) == []


async def test_a_turn_has_what_its_answer_over_http_has(api: Api) -> None:
    thread = await api.opened()
    done = (await api.turn(thread, "What is 12 * 3.5?")).json()
    (one,) = await turns(api)
    assert (one["turn_id"], one["outcome"], one["answer"]) == (done["turn_id"], "completed", done["answer"])
    usage = done["usage"]
    assert [one["model_calls"], one["prompt_tokens"], one["completion_tokens"], one["cost_usd"]] == [
        usage["calls"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["cost_usd"],
    ]
    assert (one["tools"], one["tool_calls"], one["tool_failures"]) == (["calculate"], 1, 0)
    assert one["created_at"] == one["started_at"] <= one["ended_at"]
    assert one["duration_ms"] >= one["waited_ms"] == 0
    assert await turns(api, tool="calculate, clock") == [one]
    assert await turns(api, tool="clock") == []
    cost, took = one["cost_usd"], one["duration_ms"]
    assert await turns(api, min_cost_usd=cost, max_cost_usd=cost, min_duration_ms=took, max_duration_ms=took) == [one]
    assert await turns(api, min_cost_usd=cost * 1.01) == []
    assert await turns(api, min_duration_ms=took + 1) == []


async def test_a_turn_is_listed_while_it_is_queued_runs_and_waits(api: Api) -> None:
    thread = await api.opened(graph="patient")
    for text in ("one", "two"):
        await api.post(f"/v1/threads/{thread}/turns", json={"user_input": text, "strategy": "enqueue"})
    running, queued = await turns(api, thread, order="asc")
    assert (running["outcome"], running["node"], running["queued"], running["ended_at"]) == (
        "running",
        "hold",
        False,
        None,
    )
    assert (queued["outcome"], queued["started_at"], queued["user_input"]) == ("queued", None, "two")
    let_go(thread)
    async with asyncio.timeout(60):
        while [one["outcome"] for one in await turns(api, thread)] != ["completed"] * 2:
            await asyncio.sleep(0.02)
    (second, _) = await turns(api, thread)
    assert (second["queued"], second["started_at"] > second["created_at"]) == (True, True)
    assert second["created_at"] == queued["created_at"], "its place in the list stays"

    asking = await api.opened(graph="exchange")
    await api.turn(asking, "I want another size")
    (waiting,) = await turns(api, outcome="waiting")
    assert (waiting["thread_id"], waiting["answer"]) == (asking, "Which order?")
    await api.post(f"/v1/threads/{asking}/turns", json={"user_input": "A-17"})
    async with asyncio.timeout(60):
        while not (found := (await api.get(f"/v1/threads/{asking}/approvals")).json()["items"]):
            await asyncio.sleep(0.02)
    (waiting,) = await turns(api, outcome="waiting")
    assert waiting["user_input"] == "I want another size", "the answer to a question is not what the turn began with"
    decision = {"hash": found[0]["hash"], "decision": "answer", "answer": {"approved": True}}
    await api.post(f"/v1/threads/{asking}/approvals/{found[0]['approval_id']}", json=decision)
    async with asyncio.timeout(60):
        while (await api.get(f"/v1/threads/{asking}")).json()["status"] != "idle":
            await asyncio.sleep(0.02)
    (done,) = await turns(api, asking)
    assert (done["outcome"], done["waited_ms"] > 0, done["duration_ms"] >= done["waited_ms"]) == (
        "completed",
        True,
        True,
    )


@pytest.mark.parametrize("sort", ["created_at", "duration_ms", "cost"])
async def test_pages_go_on_at_their_cursor(api: Api, sort: str) -> None:
    for _ in range(2):
        await talk(api, "What is 2 * 3?", "hello")
    everything = await turns(api, sort=sort)
    assert len(everything) == 4
    read: list[Json] = []
    cursor: dict[str, str] = {}
    while True:
        page = await strong(api, "/v1/turns", sort=sort, limit=1, **cursor)
        read += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert read == everything
    reads = (await api.get("/v1/audit/reads", params={"what": "list"})).json()["items"]
    assert reads[0]["request"].startswith("/v1/turns?")
    assert reads[0]["threads"] == [everything[-1]["thread_id"]]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"reason": "because"}, "reason"),
        ({"created_since": "2026-11-23T10:00:00"}, "created_since"),
        ({"created_since": "yesterday"}, "created_since"),
        ({"created_since": "2026-11-23T10:00:00Z", "created_before": "2026-11-22T10:00:00Z"}, "created_before"),
        ({"min_cost_usd": "-1"}, "min_cost_usd"),
        ({"min_cost_usd": "nan"}, "min_cost_usd"),
        ({"max_cost_usd": "inf"}, "max_cost_usd"),
        ({"min_cost_usd": "2", "max_cost_usd": "1"}, "max_cost_usd"),
        ({"max_duration_ms": "1.5"}, "max_duration_ms"),
        ({"min_duration_ms": str(10**16)}, "min_duration_ms"),
        ({"min_duration_ms": "5", "max_duration_ms": "4"}, "max_duration_ms"),
        ({"sort": "tokens"}, "sort"),
        ({"order": "up"}, "order"),
        ({"limit": "0"}, "limit"),
        ({"cursor": "%%%"}, "cursor"),
        ({"started": "1"}, "started"),
        ({"graph": "a\0"}, "graph"),
        ({"min_version": "1"}, "min_version"),
    ],
    ids=str,
)
async def test_bad_input_is_refused_by_its_name(api: Api, params: dict[str, str], field: str) -> None:
    thread = await api.opened()
    for path in ("/v1/turns", f"/v1/threads/{thread}/turns"):
        refused = await api.get(path, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


async def test_turns_of_an_unknown_thread_are_not_found(api: Api) -> None:
    unknown = await api.get(f"/v1/threads/{uuid4()}/turns")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (404, "thread_id")
    assert await turns(api, await api.opened()) == []


async def test_reports_find_turns_in_sql(database_url: str, owner: asyncpg.Connection) -> None:
    async with running_api(database_url=database_url, prices=PRICES) as api:
        await talk(api, "What is 12 * 3.5?")
        (one,) = await turns(api)
    row = await owner.fetchrow(
        "SELECT turn.outcome, turn.cost_usd, called.tool, called.calls FROM analytics.turn_list AS turn"
        "  JOIN analytics.turn_tools AS called USING (thread_id, turn_id)"
    )
    assert (row["outcome"], row["tool"], row["calls"]) == ("completed", "calculate", 1)
    assert float(row["cost_usd"]) == pytest.approx(one["cost_usd"])
