"""Turns that a deployment finds at a node which it has renamed: over HTTP, with a restart in between."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from api.runtime.composition import open_runtime
from infrastructure.settings import BadSetting, Settings
from tests.support.http import Api, running_api
from tests.support.renamed_agents import PAID

Deployed = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def deployed(database_url: str) -> Deployed:
    """Return a context that serves with some agents, all on one database."""
    PAID.clear()

    def serving(*agents: str) -> AbstractAsyncContextManager[Api]:
        named = tuple(f"tests.support.renamed_agents:{agent}" for agent in agents)
        return running_api(database_url=database_url, agents=named, lease_seconds=2)

    return serving


async def status(api: Api, thread: str, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (summary := (await api.get(f"/v1/threads/{thread}")).json())["status"] != wanted:
            await asyncio.sleep(0.02)
    return dict(summary)


async def begin(api: Api, said: str = "pay", graph: str = "till", until: str = "waiting") -> str:
    thread = await api.opened(graph=graph)
    await api.post(f"/v1/threads/{thread}/turns", json={"user_input": said})
    await status(api, thread, until)
    return thread


async def pending(api: Api, thread: str) -> list[dict[str, Any]]:
    return list((await api.get(f"/v1/threads/{thread}/approvals")).json()["items"])


async def decide(api: Api, thread: str, approval: dict[str, Any], decision: str = "grant") -> Any:
    path = f"/v1/threads/{thread}/approvals/{approval['approval_id']}"
    return await api.post(path, json={"hash": approval["hash"], "decision": decision})


async def kinds(api: Api, thread: str) -> list[str]:
    page = await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})
    return [event["type"] for event in page.json()["items"]]


@pytest.mark.parametrize("decision", ["grant", "deny"])
async def test_a_decision_about_a_call_at_a_renamed_node_is_refused_and_lost_nothing(
    deployed: Deployed, decision: str
) -> None:
    async with deployed("before") as api:
        thread = await begin(api)
    async with deployed("renamed") as api:
        (approval,) = await pending(api, thread)
        known = await kinds(api, thread)
        refused = await decide(api, thread, approval, decision)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:threadfold:missing-node")
        for part in ("'settle'", "ask, close", "aliases=('settle',)"):
            assert part in refused.json()["detail"]
        assert await kinds(api, thread) == known
        assert await pending(api, thread) == [approval]
        unknown = await decide(api, thread, {**approval, "approval_id": 999})
        assert unknown.status_code == 404
    async with deployed("aliased") as api:
        assert (await decide(api, thread, approval, decision)).status_code == 200
        summary = await status(api, thread, "idle")
        assert summary["last_turn"]["outcome"] == "completed"
    assert ([5] if decision == "grant" else []) == PAID


async def test_a_decision_about_a_renamed_node_itself_is_refused(deployed: Deployed) -> None:
    async with deployed("guarded") as api:
        thread = await begin(api, graph="gate")
    async with deployed("unguarded") as api:
        (approval,) = await pending(api, thread)
        refused = await decide(api, thread, approval)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:threadfold:missing-node")
        turn = (await status(api, thread, "waiting"))["running_turn"]
        cancelled = await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        assert cancelled.json()["status"] == "cancelled"
    async with deployed("guarded") as api:
        assert (await status(api, thread, "idle"))["last_turn"]["node"] == "enter"


async def test_a_granted_call_outlives_a_deployment_without_its_node(
    deployed: Deployed, caplog: pytest.LogCaptureFixture, database_url: str
) -> None:
    async with deployed("before") as api:
        thread = await begin(api)
        (approval,) = await pending(api, thread)
    # A process that does not know the agent records the decision for one that does.
    async with running_api(database_url=database_url, lease_seconds=2) as api:
        assert (await decide(api, thread, approval)).status_code == 200
    caplog.set_level(logging.ERROR)
    async with deployed("renamed") as api:
        async with asyncio.timeout(30):
            while "stands at the node 'settle'" not in caplog.text:
                await asyncio.sleep(0.02)
        await asyncio.sleep(3)  # longer than a lease: it is looked at once more
        assert caplog.text.count("stands at the node 'settle'") == 1
        assert "aliases=('settle',)" in caplog.text
        assert (await kinds(api, thread))[-1] == "ApprovalGranted"
        assert (await status(api, thread, "running"))["running_turn"]
    async with deployed("aliased") as api:
        assert (await status(api, thread, "idle"))["last_turn"]["outcome"] == "completed"
    assert PAID == [5]


async def test_a_turn_that_is_left_alone_can_be_cancelled(deployed: Deployed, database_url: str) -> None:
    async with deployed("before") as api:
        thread = await begin(api)
        (approval,) = await pending(api, thread)
    async with running_api(database_url=database_url, lease_seconds=2) as api:
        await decide(api, thread, approval)
    async with deployed("renamed") as api:
        turn = (await status(api, thread, "running"))["running_turn"]
        await asyncio.sleep(0.5)
        cancelled = await api.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert PAID == []


async def test_a_retry_at_a_renamed_node_is_refused_until_there_is_an_alias(deployed: Deployed) -> None:
    async with deployed("before") as api:
        thread = await begin(api, "stumble", until="idle")
    async with deployed("renamed") as api:
        failed = (await status(api, thread, "idle"))["last_turn"]["turn_id"]
        known = await kinds(api, thread)
        refused = await api.post(f"/v1/threads/{thread}/turns/{failed}/retry")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:threadfold:missing-node")
        assert "'settle'" in refused.json()["detail"]
        assert await kinds(api, thread) == known
    async with deployed("aliased") as api:
        retried = await api.post(f"/v1/threads/{thread}/turns/{failed}/retry", params={"wait": True})
        assert (retried.status_code, retried.json()["status"]) == (200, "completed")
        page = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()
        (begun,) = [event for event in page["items"] if event["data"].get("retries") == failed]
        assert begun["data"]["node"] == "close"


async def answer(api: Api, thread: str) -> str:
    """Grant what waits in a thread, and return the agent's last message."""
    (approval,) = await pending(api, thread)
    assert (await decide(api, thread, approval)).status_code == 200
    await status(api, thread, "idle")
    messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
    return str([message["content"] for message in messages if message["role"] == "assistant"][-1])


async def test_running_turns_keep_their_version_and_new_ones_take_the_last(deployed: Deployed) -> None:
    async with deployed("before") as api:
        old, older = await begin(api), await begin(api)
    async with deployed("before", "versioned") as api:
        new = await begin(api)
        state = (await api.get(f"/v1/threads/{new}/state")).json()
        assert state["turn"]["agent_version"] == "2"
        assert await answer(api, old) == "That is settled."
        assert await answer(api, new) == "That is closed by version 2."
        graphs = [graph for graph in (await api.get("/v1/graphs")).json() if graph["name"] == "till"]
        assert [(graph["version"], graph["current"]) for graph in graphs] == [("", False), ("2", True)]
        assert (await api.get("/v1/graphs/till")).json()["version"] == "2"
        await api.post(f"/v1/threads/{old}/turns", json={"user_input": "again"})
        await status(api, old, "waiting")
        assert await answer(api, old) == "That is closed by version 2."
    async with deployed("versioned") as api:  # the turn's own version is gone, and the last one lacks its node
        (approval,) = await pending(api, older)
        assert (await decide(api, older, approval)).status_code == 409
    async with deployed("before", "versioned") as api:
        assert await answer(api, older) == "That is settled."


async def test_a_message_that_was_enqueued_keeps_the_version_that_was_current(deployed: Deployed) -> None:
    async with deployed("before") as api:
        thread = await begin(api)
        queued = {"user_input": "more", "strategy": "enqueue"}
        assert (await api.post(f"/v1/threads/{thread}/turns", json=queued)).status_code == 202
    async with deployed("before", "versioned") as api:
        await api.post(f"/v1/threads/{thread}/turns", json={**queued, "user_input": "most"})
        answers = []
        for _ in range(3):
            (approval,) = await pending(api, thread)
            turn = (await api.get(f"/v1/threads/{thread}")).json()["running_turn"]
            await decide(api, thread, approval)
            async with asyncio.timeout(60):
                while turn == (summary := (await api.get(f"/v1/threads/{thread}")).json())["running_turn"]:
                    await asyncio.sleep(0.02)
                while summary["status"] == "running":
                    await asyncio.sleep(0.02)
                    summary = (await api.get(f"/v1/threads/{thread}")).json()
            messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
            answers.append([m["content"] for m in messages if m["role"] == "assistant" and m["content"]][-1])
    assert answers == ["That is settled.", "That is settled.", "That is closed by version 2."]


async def test_two_agents_of_the_same_name_and_version_are_refused() -> None:
    both = ("tests.support.renamed_agents:before", "tests.support.renamed_agents:renamed")
    settings = Settings(_env_file=None, database_url="memory://", agents=both)  # type: ignore[call-arg]
    with pytest.raises(BadSetting, match=r"another agent named 'till'.*or another version, such as version='2'"):
        async with open_runtime(settings):
            pass


async def test_a_graph_shows_the_earlier_names_of_its_nodes() -> None:
    agents = ("tests.support.renamed_agents:aliased",)
    async with running_api(database_url="memory://", agents=agents) as api:
        nodes = (await api.get("/v1/graphs/till")).json()["nodes"]
        assert {node["name"]: node["aliases"] for node in nodes} == {"ask": [], "close": ["settle"]}


async def test_an_answer_to_a_question_at_a_renamed_node_is_refused_until_there_is_an_alias(deployed: Deployed) -> None:
    async with deployed("asking") as api:
        thread = await begin(api, graph="asker")
    async with deployed("asking_elsewhere") as api:
        (question,) = await pending(api, thread)
        path = f"/v1/threads/{thread}/approvals/{question['approval_id']}"
        answer = {"hash": question["hash"], "decision": "answer", "answer": "yes"}
        refused = await api.post(path, json=answer)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:threadfold:missing-node")
        assert await pending(api, thread) == [question]
    async with deployed("asking_with_alias") as api:
        assert (await api.post(path, json=answer)).status_code == 200
        assert (await status(api, thread, "idle"))["last_turn"]["outcome"] == "completed"
