"""The API as its users meet it: over a socket, on PostgreSQL and on memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from api.runtime.health import Readiness
from domain.application.audit.verify import verify_slices
from domain.ids import SLICES, Slice
from domain.ports.log import EventStore
from tests.support.http import Api, running_api


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def api(log_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url=log_url) as api:
        yield api


async def finished(api: Api, thread_id: str) -> dict[str, Any]:
    """Poll a thread until its turn is over."""
    for _ in range(500):
        summary: dict[str, Any] = (await api.get(f"/v1/threads/{thread_id}")).json()
        if summary["status"] == "idle":
            return summary
        await asyncio.sleep(0.02)
    raise AssertionError("the turn did not end")


async def every_event(api: Api, thread_id: str) -> list[dict[str, Any]]:
    return [item async for item in pages(api, f"/v1/threads/{thread_id}/events")]


async def pages(api: Api, path: str, limit: int = 5, **more: str) -> AsyncIterator[dict[str, Any]]:
    params: dict[str, Any] = {"limit": limit, **more}
    while True:
        page = (await api.get(path, params=params)).json()
        assert len(page["items"]) <= limit
        for item in page["items"]:
            yield item
        if page["next_cursor"] is None:
            return
        params["cursor"] = page["next_cursor"]


async def test_invoke_opens_a_thread_and_runs_the_turn_in_the_background(api: Api) -> None:
    thread_id = str(uuid4())
    response = await api.post("/v1/agent/invoke", json={"thread_id": thread_id, "user_input": "What is 2 + 3?"})
    assert response.status_code == 202
    accepted = response.json()
    assert (accepted["status"], accepted["thread_id"]) == ("processing", thread_id)
    assert response.headers["etag"] == f'"{accepted["checkpoint"]}"'
    summary = await finished(api, thread_id)
    assert summary["last_turn"]["outcome"] == "completed"
    messages = (await api.get(f"/v1/threads/{thread_id}/messages")).json()["items"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["name"] == "calculate"
    assert (messages[2]["content"], messages[2]["outcome"]) == ("5", "succeeded")
    assert "5" in messages[3]["content"]


async def test_a_turn_that_is_waited_for_is_answered_whole(api: Api) -> None:
    thread_id = await api.opened(values={"plan": "gold"})
    response = await api.turn(thread_id, "hello")
    assert response.status_code == 200
    turn = response.json()
    assert turn["status"] == "completed"
    assert turn["answer"] == turn["messages"][-1]["content"]
    assert "offline model" in turn["answer"]
    state = (await api.get(f"/v1/threads/{thread_id}/state")).json()
    assert (state["checkpoint"], state["values"], state["turns"]) == (turn["checkpoint"], {"plan": "gold"}, 1)


async def test_a_tools_error_goes_back_to_the_model(api: Api) -> None:
    thread_id = await api.opened()
    turn = (await api.turn(thread_id, "/calculate 1 / 0")).json()
    assert turn["status"] == "completed"
    assert turn["messages"][2]["outcome"] == "failed"
    assert "zero" in turn["messages"][2]["content"]


async def test_the_past_is_there_at_every_version_and_instant(api: Api) -> None:
    thread_id = await api.opened()
    await api.turn(thread_id, "hello")
    await api.patch(f"/v1/threads/{thread_id}/values", json={"values": {"mood": "good"}})
    events = await every_event(api, thread_id)
    assert [event["version"] for event in events] == list(range(1, len(events) + 1))
    states = []
    for event in events:
        path = f"/v1/threads/{thread_id}/state"
        state = (await api.get(path, params={"at_version": event["version"]})).json()
        assert state["version"] == event["version"]
        states.append(state)
        at_time = (await api.get(path, params={"at_time": event["recorded_at"]})).json()
        same = [e["version"] for e in events if e["recorded_at"] == event["recorded_at"]]
        assert at_time["version"] == same[-1]
    assert states[0]["window"] == []
    assert [s["status"] for s in states[:3]] == ["idle", "running", "running"]
    assert (states[-2]["values"], states[-1]["values"]) == ({}, {"mood": "good"})
    later = datetime.fromisoformat(events[-1]["recorded_at"]) + timedelta(days=1)
    now = await api.get(f"/v1/threads/{thread_id}/state", params={"at_time": later.isoformat()})
    assert now.json() == states[-1]


async def test_only_who_has_seen_the_last_checkpoint_may_go_on_with_it(api: Api) -> None:
    thread_id = await api.opened()
    first = (await api.turn(thread_id, "one")).json()["checkpoint"]
    second = await api.post(
        f"/v1/threads/{thread_id}/turns",
        params={"wait": True},
        json={"user_input": "two"},
        headers={"If-Match": f'"{first}"'},
    )
    assert second.status_code == 200
    late = {"thread_id": thread_id, "user_input": "three", "checkpoint_ref": first}
    stale = await api.post("/v1/agent/invoke", json=late)
    assert stale.status_code == 412
    assert stale.json()["type"] == "urn:threadfold:version-conflict"
    fresh = {**late, "checkpoint_ref": second.json()["checkpoint"]}
    assert (await api.post("/v1/agent/invoke", json=fresh)).status_code == 202
    assert (await finished(api, thread_id))["turns"] == 3


async def test_a_repeated_command_is_answered_as_it_was_and_done_once(api: Api) -> None:
    key = {"Idempotency-Key": "order-66"}
    body = {"user_input": "hello"}
    first = await api.post("/v1/agent/invoke", json=body, headers=key)
    again = await asyncio.gather(*[api.post("/v1/agent/invoke", json=body, headers=key) for _ in range(10)])
    thread_id = first.json()["thread_id"]
    assert all((r.status_code, r.json()) == (202, first.json()) for r in again)
    await finished(api, thread_id)
    assert (await api.post("/v1/agent/invoke", json=body, headers=key)).json() == first.json()
    waited, repeated = [
        await api.post(
            f"/v1/threads/{thread_id}/turns",
            params={"wait": True},
            json={"user_input": "bye"},
            headers={"Idempotency-Key": "goodbye"},
        )
        for _ in range(2)
    ]
    assert waited.json() == repeated.json()
    started = [e for e in await every_event(api, thread_id) if e["type"] == "TurnStarted"]
    assert len(started) == 2
    other = await api.post("/v1/agent/invoke", json={"user_input": "other"}, headers=key)
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_opening_again_in_the_same_way_changes_nothing(api: Api) -> None:
    body = {"thread_id": str(uuid4()), "values": {"n": 1}}
    first, second = await api.post("/v1/threads", json=body), await api.post("/v1/threads", json=body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.headers["location"] == f"/v1/threads/{body['thread_id']}"


async def test_of_many_messages_at_once_to_one_thread_one_is_taken(api: Api) -> None:
    thread_id = await api.opened()
    turns = [api.post(f"/v1/threads/{thread_id}/turns", json={"user_input": f"n {n}"}) for n in range(30)]
    statuses = [r.status_code for r in await asyncio.gather(*turns)]
    assert set(statuses) <= {202, 409}
    await finished(api, thread_id)
    events = await every_event(api, thread_id)
    for kind in ("TurnStarted", "TurnCompleted"):
        assert len([e for e in events if e["type"] == kind]) == statuses.count(202)


async def test_values_change_by_merge_patch_even_while_a_turn_runs(api: Api) -> None:
    thread_id = await api.opened(values={"a": {"b": 1, "c": 2}})
    await api.post(f"/v1/threads/{thread_id}/turns", json={"user_input": "hello"})
    patched = await api.patch(f"/v1/threads/{thread_id}/values", json={"values": {"a": {"b": None}, "d": [1.5, "é😀"]}})
    assert patched.status_code == 200
    assert patched.json()["values"] == {"a": {"c": 2}, "d": [1.5, "é😀"]}
    await finished(api, thread_id)


async def test_threads_are_listed_in_pages_the_last_opened_first(api: Api) -> None:
    opened = [await api.opened() for _ in range(12)]
    listed = [item["thread_id"] async for item in pages(api, "/v1/threads", consistency="strong")]
    assert listed == opened[::-1]


async def test_messages_in_pages_are_the_whole_transcript(api: Api) -> None:
    thread_id = await api.opened()
    for text in ("What is 2 + 3?", "What time is it and what is 4 * 4?", "thanks"):
        await api.turn(thread_id, text)
    whole = (await api.get(f"/v1/threads/{thread_id}/messages")).json()["items"]
    for limit in (1, 2, 3):
        assert [m async for m in pages(api, f"/v1/threads/{thread_id}/messages", limit)] == whole
    assert len(whole) == 3 + 5 + 2 + 1


async def test_events_tell_by_which_command_and_request_they_came(api: Api) -> None:
    thread_id = await api.opened()
    await api.post(
        f"/v1/threads/{thread_id}/turns",
        params={"wait": True},
        json={"user_input": "hi"},
        headers={"X-Correlation-ID": "ticket-7"},
    )
    opened, started, asked, *rest = await every_event(api, thread_id)
    assert set(opened["metadata"]) == {"command", "client"}
    assert started["metadata"] == asked["metadata"]
    assert started["metadata"]["correlation"] == "ticket-7"
    by_agent = {"causation": started["metadata"]["command"], "correlation": "ticket-7"}
    assert all(event["metadata"] == by_agent for event in rest)


async def test_graphs_are_shown_with_their_tools_and_drawing(api: Api) -> None:
    (listed,) = (await api.get("/v1/graphs")).json()
    shown = (await api.get("/v1/graphs/assistant")).json()
    assert shown == listed
    assert {tool["name"] for tool in shown["tools"]} == {"current_time", "calculate", "look_up"}
    assert shown["mermaid"].startswith("flowchart TD\n")
    nodes = {node["name"]: node["next"] for node in shown["nodes"]}
    assert nodes["generate_response"] == {
        "tools": "execute_tool",
        "over_window": "compact_history",
        "done": "finalize_turn",
    }


async def test_health_and_schema(api: Api) -> None:
    assert (await api.get("/health/live")).json() == {"status": "alive"}
    assert (await api.get("/health/ready")).json() == {"status": "ready"}
    schema = (await api.get("/schema")).json()
    assert schema == (await api.get("/schema/openapi.json")).json()
    turns = schema["paths"]["/v1/threads/{thread_id}/turns"]["post"]
    assert {p["name"] for p in turns["parameters"]} == {
        "thread_id", "wait", "If-Match", "Idempotency-Key", "User-Agent", "X-Actor", "X-Correlation-ID"
    }  # fmt: skip
    assert turns["description"] == "Send a message in an open thread.\n\nScope: threads:write."
    events = schema["paths"]["/v1/threads/{thread_id}/events"]["get"]
    assert {p["name"] for p in events["parameters"]} == {
        "thread_id", "at_version", "at_time", "order", "cursor", "limit", "User-Agent", "X-Actor", "X-Correlation-ID"
    }  # fmt: skip


async def test_a_thread_keeps_its_graph_and_invoke_need_not_name_it() -> None:
    async with running_api(database_url="memory://", agents=("tests.support.http:OTHER",)) as api:
        body = {"thread_id": await api.opened(graph="other"), "user_input": "hello"}
        for named in ({}, {"graph": "other"}):
            said = await api.post("/v1/agent/invoke", json={**body, **named}, headers={"If-Match": "*"})
            assert said.status_code == 202
            await finished(api, body["thread_id"])
        assert (await api.post("/v1/agent/invoke", json={**body, "graph": "assistant"})).status_code == 409


async def test_the_last_instant_there_is_means_now(api: Api) -> None:
    path = f"/v1/threads/{await api.opened()}/state"
    later = await api.get(path, params={"at_time": "9999-12-31T23:59:59Z"})
    assert later.json() == (await api.get(path)).json()


async def test_the_window_and_the_transcript_name_a_tools_call_alike(api: Api) -> None:
    thread_id = await api.opened()
    await api.turn(thread_id, "/calculate 6 * 7")
    window = (await api.get(f"/v1/threads/{thread_id}/state")).json()["window"]
    said = (await api.get(f"/v1/threads/{thread_id}/messages")).json()["items"]
    assert window == [{k: v for k, v in m.items() if k not in {"recorded_at", "outcome"}} for m in said]
    assert "tool_call_id" in window[2]


async def test_a_page_of_events_ends_when_it_is_large(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    thread_id = await api.opened()
    for _ in range(3):
        await api.turn(thread_id, "hello")
    whole = await every_event(api, thread_id)
    monkeypatch.setattr("api.services.history.MAX_PAGE_BYTES", 1_000)
    page = (await api.get(f"/v1/threads/{thread_id}/events", params={"limit": 1_000})).json()
    assert 1 < len(page["items"]) < len(whole)
    assert [e async for e in pages(api, f"/v1/threads/{thread_id}/events", 1_000)] == whole


async def test_a_repeated_command_does_not_wait_for_another_turn(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    thread_id = await api.opened()
    command: dict[str, Any] = {
        "params": {"wait": True},
        "json": {"user_input": "hello"},
        "headers": {"Idempotency-Key": "first"},
    }
    first = await api.post(f"/v1/threads/{thread_id}/turns", **command)

    async def endless(_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(api.service.runtime.turns, "wait", endless)
    again = await asyncio.wait_for(api.post(f"/v1/threads/{thread_id}/turns", **command), 5)
    assert (again.status_code, again.json()) == (200, first.json())


async def test_many_conversations_at_once_leave_a_log_that_verifies(api: Api) -> None:
    async def converse(number: int) -> None:
        thread_id = await api.opened()
        for turn in range(3):
            response = await api.turn(thread_id, f"What is {number} + {turn}?")
            assert str(number + turn) in response.json()["answer"]

    await asyncio.gather(*[converse(number) for number in range(16)])
    store = api.service.runtime.repository.store
    checked = await verify_slices(store, map(Slice, range(SLICES)))
    assert (checked.threads, checked.problems) == (16, ())


async def test_a_database_that_is_frozen_makes_the_process_unready_and_is_asked_once() -> None:
    thawed, asked = asyncio.Event(), []

    class Frozen:
        async def read_slice(self, *place: object) -> list[Any]:
            asked.append(place)
            while not thawed.is_set():
                with suppress(asyncio.CancelledError):  # as a driver that waits for the server
                    await thawed.wait()
            return []

        async def check_writable(self) -> None:
            return

    readiness = Readiness(cast("EventStore", Frozen()), limit=0.05)
    for _ in range(3):
        assert await readiness.trouble() == "no answer within 0.05 seconds"
    readiness.close()
    assert len(asked) == 1
    thawed.set()
    await asyncio.sleep(0.01)
    assert await readiness.trouble() is None


async def test_a_database_that_is_away_makes_the_process_unready_but_alive(database_url: str) -> None:
    async with running_api(database_url=database_url) as api:
        pool = api.service.runtime.repository.store._pool  # type: ignore[attr-defined]
        await pool.close()
        assert (await api.get("/health/live")).status_code == 200
        unready: httpx.Response = await api.get("/health/ready")
        assert unready.status_code == 503
        assert unready.json()["status"] == "unready"
