"""What the models of a turn saw, asked for afterwards and held against what they were sent."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from domain.prompt.summary import INSTRUCTIONS
from tests.fakes.openai_server import OpenAIServer, Reply, Request, completion
from tests.support.http import Api, running_api

PRICES = Path(__file__).parents[1] / "support/prices.json"
LONG = "word " * 150


@pytest.fixture
def url(request: pytest.FixtureRequest, store_kind: str) -> str:
    return "memory://" if store_kind == "memory" else str(request.getfixturevalue("database_url"))


def answer(request: Request) -> Reply:
    """Answer at length, and briefly where a summary is asked for."""
    if request.body["messages"][0]["content"] == INSTRUCTIONS:
        return completion(json.dumps({"facts": ["the user likes words"]}))
    return completion(LONG, usage={"prompt_tokens": 1_234, "completion_tokens": 160})


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(otherwise=answer) as server:
        yield server


@pytest.fixture
async def api(url: str, model: OpenAIServer) -> AsyncIterator[Api]:
    settings = {"database_url": url, "llm_endpoint": model.endpoint, "context_window_limit": 2_000, "prices": PRICES}
    async with running_api(**settings) as client:
        yield client


def sent(model: OpenAIServer) -> list[list[dict[str, Any]]]:
    """The prompts of conversations that the model got, as messages without what is null."""
    prompts = [request.body["messages"] for request in model.requests]
    return [
        [{key: value for key, value in message.items() if value is not None} for message in prompt]
        for prompt in prompts
        if prompt[0]["content"] != INSTRUCTIONS
    ]


async def contexts(api: Api, thread: str) -> list[dict[str, Any]]:
    """Every prompt of every turn of a thread."""
    events = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()["items"]
    prompts: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "TurnStarted":
            shown = await api.get(f"/v1/threads/{thread}/context/{event['data']['turn_id']}")
            assert shown.status_code == 200, shown.text
            prompts += shown.json()["prompts"]
    return prompts


async def test_each_prompt_is_shown_as_it_was_sent_and_weighs_what_its_pieces_weigh(
    api: Api, model: OpenAIServer
) -> None:
    thread = await api.opened()
    for n in range(9):
        assert (await api.turn(thread, f"Tell me more, for the {n}th time. {LONG[: n * 100]}")).status_code == 200
    prompts = await contexts(api, thread)
    assert len(prompts) == 9
    assert [prompt["messages"] for prompt in prompts] == sent(model)
    assert all(prompt["exact"] for prompt in prompts)
    for prompt in prompts:
        assert 0 <= prompt["tokens"] - sum(piece["tokens"] for piece in prompt["pieces"]) <= 4
        assert prompt["tokens"] <= prompt["limit"] == 1_700
        assert prompt["call"]["prompt_tokens"] == 1_234
        assert prompt["call"]["difference"] == 1_234 - prompt["tokens"]
    kinds = {piece["kind"] for piece in prompts[-1]["pieces"]}
    assert {"instructions", "tools", "summary", "message"} <= kinds
    summary = next(piece for piece in prompts[-1]["pieces"] if piece["kind"] == "summary")
    assert summary["text"] == "Facts:\n- the user likes words"
    assert prompts[0]["saved"] == 0
    assert prompts[-1]["saved"] > 500
    saved = [prompt["everything"] for prompt in prompts]
    assert saved == sorted(saved)


async def test_a_message_that_does_not_fit_is_shown_as_far_as_it_was_sent(api: Api, model: OpenAIServer) -> None:
    thread = await api.opened()
    await api.turn(thread, "word " * 3_000)
    (prompt,) = await contexts(api, thread)
    assert [prompt["messages"]] == sent(model)
    last = prompt["pieces"][-1]
    assert (last["role"], last["whole"]) == ("user", False)
    assert "characters fit" in last["because"]


async def test_a_retried_turn_and_a_fork_show_their_own_prompts(api: Api, model: OpenAIServer) -> None:
    thread = await api.opened()
    await api.turn(thread, "hello")
    await api.turn(thread, "and again")
    forked = (await api.post(f"/v1/threads/{thread}/fork", json={})).json()["thread_id"]
    await api.turn(forked, "in the fork")
    assert [prompt["messages"] for prompt in await contexts(api, forked)] == sent(model)


async def test_a_turn_that_is_not_there_is_a_404_that_names_it(api: Api) -> None:
    thread = await api.opened()
    problem = await api.get(f"/v1/threads/{thread}/context/{uuid4()}")
    assert (problem.status_code, problem.json()["errors"][0]["field"]) == (404, "turn_id")
    nowhere = await api.get(f"/v1/threads/{uuid4()}/context/{uuid4()}")
    assert (nowhere.status_code, nowhere.json()["errors"][0]["field"]) == (404, "thread_id")
    broken = await api.get(f"/v1/threads/{thread}/context/last")
    assert (broken.status_code, broken.json()["errors"][0]["field"]) == (400, "turn_id")


async def test_who_looks_at_a_context_is_recorded(api: Api) -> None:
    thread = await api.opened()
    turn = (await api.turn(thread, "hello")).json()["turn_id"]
    await api.get(f"/v1/threads/{thread}/context/{turn}", headers={"X-Actor": "eve"})
    reads = (await api.get("/v1/audit/reads", params={"thread_id": thread})).json()["items"]
    assert ("context", "eve") in {(read["what"], read["actor"]) for read in reads}


async def test_usage_says_what_was_saved_and_so_do_the_prompts(api: Api) -> None:
    thread = await api.opened()
    for n in range(9):
        await api.turn(thread, f"Tell me more, for the {n}th time. {LONG[: n * 100]}")
    saved = sum(prompt["saved"] for prompt in await contexts(api, thread))
    fresh = {"consistency": "strong"}
    used = (await api.get("/v1/usage", params={**fresh, "group_by": "node,model"})).json()["items"]
    by_node = {item["node"]: item for item in used}
    assert by_node["generate_response"]["saved_tokens"] == saved > 2_000
    assert by_node["compact_history"]["saved_tokens"] == 0
    (spent,) = (await api.get("/v1/budgets", params={**fresh, "window": "lifetime", "group_by": "thread_id"})).json()
    assert (spent["thread_id"], spent["saved_tokens"]) == (thread, saved)
    assert spent["saved_usd"] == by_node["generate_response"]["saved_usd"]
