"""Read models of real turns, over HTTP: they are what the log comes to, and answer what they are asked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from api.services import read_models
from domain.errors import InvalidInput
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId
from tests.support.http import Api, running_api
from tests.support.reading import strong, talk, wrong


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=url) as client:
        yield client


@pytest.fixture
async def stored(database_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=database_url) as client:
        yield client


async def test_every_read_model_is_what_the_log_comes_to(api: Api) -> None:
    await asyncio.gather(*[talk(api, f"What is {n} * 7?", "thanks", "/calculate 1 / 0") for n in range(12)])
    assert await wrong(api) == []


async def test_a_list_shows_filters_searches_and_sorts_threads(api: Api) -> None:
    sums = await talk(api, "What is 12 * 3.5?")
    words = await talk(api, "Tell me about marmalade, please", "And again marmalade")
    page = await strong(api, "/v1/threads", search="marmalade")
    (found,) = page["items"]
    assert (found["thread_id"], found["title"], found["turns"]) == (words, "Tell me about marmalade, please", 2)
    assert (found["status"], found["messages"], found["queued_turns"]) == ("idle", 4, [])
    assert found == (await api.get(f"/v1/threads/{words}")).json()
    assert [one["thread_id"] for one in (await strong(api, "/v1/threads", title="What"))["items"]] == [sums]
    for sort in ("opened_at", "last_event_at", "tokens", "cost"):
        first = await strong(api, "/v1/threads", sort=sort, order="asc", limit=1)
        second = await strong(api, "/v1/threads", sort=sort, order="asc", limit=1, cursor=first["next_cursor"])
        assert second["next_cursor"] is None
        assert {first["items"][0]["thread_id"], second["items"][0]["thread_id"]} == {sums, words}
    assert (await strong(api, "/v1/threads", status="running,waiting"))["items"] == []
    other = await api.get("/v1/threads", params={"sort": "tokens", "cursor": first["next_cursor"]})
    assert (other.status_code, other.json()["errors"][0]["field"]) == (400, "cursor")


async def test_a_search_for_words_that_all_messages_have_is_told_so(api: Api) -> None:
    await talk(api, "What about the marmalade?")
    assert (await strong(api, "/v1/threads", search="about marmalade"))["items"] != []
    for common in ("what about", "the", "?!"):
        refused = await api.get("/v1/threads", params={"search": common})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "search")


async def test_a_search_has_no_operators(api: Api) -> None:
    said = await talk(api, "hello, marmalade")
    await talk(api, "hello, honey")
    for search, found in (("-marmalade", [said]), ('"marmalade hello', [said]), ("hello or zzz", []), ("-zzz", [])):
        items = (await strong(api, "/v1/threads", search=search))["items"]
        assert [one["thread_id"] for one in items] == found, search


async def test_a_reader_waits_for_what_it_has_seen(api: Api) -> None:
    thread = await talk(api, "hello")
    version = (await api.get(f"/v1/threads/{thread}")).json()["version"]
    seen = await api.get(f"/v1/threads/{thread}", params={"consistency": "eventual", "min_version": version})
    assert seen.json()["version"] == version
    listed = (await api.get("/v1/threads", params={"min_version": f"{thread}:{version}"})).json()["items"]
    assert [(one["thread_id"], one["version"]) for one in listed] == [(thread, version)]
    for bad in ("12", f"{thread}:", f"{thread}:{version + 1}", f"{UUID(int=9)}:1", "x:1"):
        refused = await api.get("/v1/usage", params={"min_version": bad})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "min_version")


async def test_nobody_can_wait_for_a_thread_of_somebody_else(api: Api) -> None:
    mine, nobodys = ThreadId(UUID(await talk(api, "hello"))), ThreadId(UUID(int=9))
    told = []
    for thread in (mine, nobodys):
        with pytest.raises(InvalidInput) as refused:
            await api.service.reading.seen("threads", Tenant("other"), thread, 1)
        told.append((refused.value.field, refused.value.why.replace(str(thread), "…")))
    assert told == [("min_version", "the thread … has no version 1")] * 2
    await api.service.reading.seen("threads", DEFAULT_TENANT, mine, 1)


async def test_sums_have_groups_widths_ranges_and_percentiles(api: Api) -> None:
    await talk(api, "What is 2 + 2?", "hello")
    usage = await strong(api, "/v1/usage", bucket="day", group_by="graph,model")
    (item,) = usage["items"]
    assert (item["graph"], item["model"], item["calls"]) == ("assistant", "threadfold-offline", 3)
    assert item["latency_ms"].keys() == {"p50", "p95", "p99"}
    by_days = (await strong(api, "/v1/usage"))["items"][0]["latency_ms"]
    assert (await strong(api, "/v1/usage", **{"from": "2001-01-01T00:30:00Z"}))["items"][0]["latency_ms"] == by_days
    assert (await strong(api, "/v1/usage", bucket="month"))["items"][-1]["latency_ms"] == by_days
    assert (await strong(api, "/v1/usage", to="2001-01-01T00:00:00Z"))["items"][0]["calls"] == 0
    tools = await strong(api, "/v1/analytics/tools", group_by="tool")
    assert [(one["tool"], one["requested"], one["succeeded"]) for one in tools["items"]] == [("calculate", 1, 1)]
    nodes = await strong(api, "/v1/analytics/nodes", group_by="node", graph="assistant")
    assert {one["node"] for one in nodes["items"]} >= {"route_intent", "generate_response", "finalize_turn"}
    (turns,) = (await strong(api, "/v1/analytics/turns"))["items"]
    assert (turns["started"], turns["completed"], turns["failed"]) == (2, 2, 0)
    (spent,) = await strong(api, "/v1/budgets", window="lifetime", group_by="thread_id,model")
    assert spent["tokens"] == usage["items"][0]["prompt_tokens"] + usage["items"][0]["completion_tokens"]
    for path, field, params in (
        ("/v1/usage", "group_by", {"group_by": "tool"}),
        ("/v1/usage", "from", {"from": "2026-01-01T00:00:00"}),
        ("/v1/budgets", "group_by", {"group_by": "tool"}),
        ("/v1/analytics/tools", "node", {"node": "x"}),
    ):
        refused = await api.get(path, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


async def test_a_range_whose_ends_are_the_same_is_empty(api: Api) -> None:
    await talk(api, "hello")
    ends = {"from": "2020-01-01T01:00:00+01:00", "to": "2020-01-01T00:00:00Z"}
    assert (await strong(api, "/v1/usage", **ends))["items"][0]["calls"] == 0
    assert (await strong(api, "/v1/audit", **ends))["items"] == []
    assert (await strong(api, "/v1/threads", active_since=ends["from"], active_before=ends["to"]))["items"] == []


async def test_more_sums_than_an_answer_has_are_refused_and_not_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk(api, "What is 2 + 2?")
    path, by_node = "/v1/analytics/nodes", {"group_by": "node"}
    nodes = len((await strong(api, path, **by_node))["items"])
    assert nodes > 2
    monkeypatch.setattr(read_models, "MAX_SUMS", nodes)
    assert len((await strong(api, path, bucket="month", **by_node))["items"]) == nodes
    monkeypatch.setattr(read_models, "MAX_SUMS", nodes - 1)
    for params, field in ((by_node, "group_by"), ({"bucket": "month", **by_node}, "bucket")):
        refused = await api.get(path, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field), refused.text


async def test_the_audit_says_who_did_what_and_what_the_agent_did_because_of_it(api: Api) -> None:
    thread = await talk(
        api, "What is 2 + 2?", **{"X-Correlation-ID": "ticket-7", "User-Agent": "curl/8.9", "X-Actor": "ada"}
    )
    entries = (await strong(api, "/v1/audit", correlation="ticket-7"))["items"]
    agent, caller = sorted(entries, key=lambda entry: str(entry["by"]))
    assert agent["command"] == caller["command"]
    assert caller["actions"] == ["TurnStarted", "MessageAppended"]
    assert (caller["actor"], caller["client"], caller["thread_id"]) == ("ada", "curl/8.9", thread)
    assert [entry["command"] for entry in (await strong(api, "/v1/audit", actor="ada"))["items"]] == [caller["command"]]
    assert agent["actions"] == ["ToolStarted", "ToolSucceeded", "TurnCompleted"]
    everything = await strong(api, "/v1/audit", thread_id=thread, limit=1)
    rest = await strong(api, "/v1/audit", thread_id=thread, cursor=everything["next_cursor"])
    assert len(everything["items"] + rest["items"]) == 3


async def test_an_instant_names_who_ran_then(stored: Api, owner: asyncpg.Connection) -> None:
    thread = await talk(stored, "hello")
    events = (await stored.get(f"/v1/threads/{thread}/events")).json()["items"]
    begun = next(event["recorded_at"] for event in events if event["type"] == "TurnStarted")
    ended = next(event["recorded_at"] for event in events if event["type"] == "TurnCompleted")
    assert (await strong(stored, "/v1/instant", at=begun))["running"]["items"] == [
        {"thread_id": thread, "since": begun}
    ]
    assert (await strong(stored, "/v1/instant", at=ended))["running"] == {"items": [], "next_cursor": None}
    spells = await owner.fetch("SELECT status, since, until FROM analytics.spells")
    assert [row["status"] for row in spells] == ["running"]


async def test_forks_and_their_parents_are_summarised_by_what_each_did(api: Api) -> None:
    parent = await talk(api, "What is 2 + 2?", "thanks")
    version = (await api.get(f"/v1/threads/{parent}")).json()["version"]
    forked = (await api.post(f"/v1/threads/{parent}/fork", json={"at_version": version - 3})).json()["thread_id"]
    await api.turn(forked, "What is 5 * 5?")
    listed = {one["thread_id"]: one for one in (await strong(api, "/v1/threads"))["items"]}
    for thread in (parent, forked):
        assert listed[thread] == (await api.get(f"/v1/threads/{thread}")).json()
    (turns,) = (await strong(api, "/v1/analytics/turns"))["items"]
    assert turns["started"] == 3
    assert await api.service.projection_admin.parked() == []


async def test_reports_see_the_stable_views_and_nothing_else(stored: Api, owner: asyncpg.Connection) -> None:
    thread = await talk(stored, "What is 2 + 2?")
    await strong(stored, "/v1/threads")
    await strong(stored, "/v1/usage")
    await owner.execute("SET ROLE threadfold_reader")
    (row,) = await owner.fetch("SELECT thread_id, title, cost_usd FROM analytics.threads")
    assert (row["thread_id"], row["title"], row["cost_usd"]) == (UUID(thread), "What is 2 + 2?", 0)
    said = await owner.fetch("SELECT role, content FROM analytics.messages WHERE role = 'user'")
    assert [tuple(row) for row in said] == [("user", "What is 2 + 2?")]
    for forbidden in ("SELECT FROM events", "SELECT FROM read_models.instances", "DELETE FROM analytics.threads"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(forbidden)


async def test_a_summary_of_the_past_is_that_of_then(api: Api) -> None:
    thread = await talk(api, "What is 2 + 2?", "thanks")
    now = (await api.get(f"/v1/threads/{thread}")).json()
    before: dict[str, Any] = {}
    for version in range(1, now["version"] + 1):
        then = (await api.get(f"/v1/threads/{thread}", params={"at_version": version})).json()
        assert then["version"] == version
        assert then["turns"] >= before.get("turns", 0)
        before = then
    assert before == now
