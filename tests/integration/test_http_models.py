"""Turns whose first model is down, slow, limited or lying: who answers, how soon, and what the log says of it."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import free_port
from tests.fakes.openai_server import Cut, OpenAIServer, Pause, Reply, completion, refusal, stream
from tests.support.http import Api, running_api

FILE = """
chain = ["large", "small"]

[providers.cloud]
endpoint = "{cloud}"
first_byte = 1
silence = 1

[providers.local]
endpoint = "{local}"

[models.large]
provider = "cloud"
model = "big-1"

[models.small]
provider = "local"
model = "tiny-1"

[[rules]]
use = "small"
strained = true
"""

ENOUGH = 25.0
"""Seconds: a turn may take 330, and the first model's limits are one second each."""


@asynccontextmanager
async def talking(tmp_path: Path, cloud: str, local: str) -> AsyncIterator[Api]:
    file = tmp_path / "models.toml"
    file.write_text(FILE.format(cloud=cloud, local=local))
    async with running_api(database_url="memory://", models=file) as api:
        yield api


async def said(api: Api, thread: str, text: str = "hello") -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    turn = await api.turn(thread, text)
    assert turn.status_code == 200, turn.text
    return dict(turn.json()), time.monotonic() - began


async def happened(api: Api, thread: str, kind: str) -> list[dict[str, Any]]:
    events = (await api.get(f"/v1/threads/{thread}/events", params={"limit": 1_000})).json()["items"]
    return [event["data"] for event in events if event["type"] == kind]


TROUBLE: dict[str, Reply] = {
    "slow": Reply(completion("late").body, before=[Pause(30)]),
    "stalls": Reply([*stream("Hel").body[:2], Pause(30)], headers={"content-type": "text/event-stream"}),
    "breaks off": Reply([*stream("Hel").body[:2], Cut()], headers={"content-type": "text/event-stream"}),
    "limited": refusal(429, "slow down", retry_after="3600"),
    "failing": refusal(503, "out of order"),
    "refuses the key": refusal(401, "who are you?"),
    "refuses the request": refusal(400, "too many tokens"),
    "talks nonsense": Reply([b"<html>sorry</html>"]),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_another_model_answers_in_time_and_the_log_has_each_attempt(tmp_path: Path, trouble: str) -> None:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(OpenAIServer(otherwise=TROUBLE[trouble]))
        local = await stack.enter_async_context(OpenAIServer(otherwise=completion("Here I am.", model="tiny-1")))
        api = await stack.enter_async_context(talking(tmp_path, cloud.endpoint, local.endpoint))
        thread = await api.opened()
        turn, seconds = await said(api, thread)
        failed, called = await happened(api, thread, "ModelFailed"), await happened(api, thread, "ModelCalled")
    assert (turn["status"], turn["answer"]) == ("completed", "Here I am.")
    assert seconds < ENOUGH
    assert [(one["model"], one["provider"]) for one in failed] == [("big-1", "cloud")]
    answered = [one for one in called if one["finish_reason"] != "interrupted"]
    assert [(one["provider"], one["because"]) for one in answered] == [("local", "large of cloud did not answer")]


async def test_one_that_is_down_is_left_alone_after_a_while(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(OpenAIServer(otherwise=completion("Here I am.", model="tiny-1")))
        nobody = f"http://127.0.0.1:{free_port()}/v1"
        api = await stack.enter_async_context(talking(tmp_path, nobody, local.endpoint))
        thread = await api.opened()
        seconds = [(await said(api, thread, f"hello {n}"))[1] for n in range(5)]
        failed, called = await happened(api, thread, "ModelFailed"), await happened(api, thread, "ModelCalled")
    assert max(seconds) < ENOUGH
    assert len(failed) == 3
    assert [one["because"] for one in called] == [
        *["large of cloud did not answer"] * 3,
        *["large of cloud is resting"] * 2,
    ]


@pytest.mark.parametrize("usage", [(0, 0), (-5, 3), (10**12, 3), (400, 10**9)])
async def test_an_endpoint_that_lies_about_usage_is_not_believed(tmp_path: Path, usage: tuple[int, int]) -> None:
    lie = completion("I am honest.", usage={"prompt_tokens": usage[0], "completion_tokens": usage[1]})
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(OpenAIServer(otherwise=lie))
        api = await stack.enter_async_context(talking(tmp_path, cloud.endpoint, cloud.endpoint))
        thread = await api.opened()
        await said(api, thread)
        (called,) = await happened(api, thread, "ModelCalled")
        budget = (await api.get(f"/v1/threads/{thread}/budget")).json()
    assert called["estimated"]
    assert called["reported"] == [max(usage[0], 0), usage[1]]
    assert 100 < called["prompt_tokens"] < 2_000
    assert budget["windows"][-1]["tokens"] == called["prompt_tokens"] + called["completion_tokens"]


async def test_a_strained_budget_leads_to_the_small_model_and_shorter_answers(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 600, "completion_tokens": 20}
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(OpenAIServer(otherwise=completion("Big.", usage=usage)))
        local = await stack.enter_async_context(OpenAIServer(otherwise=completion("Small.", usage=usage)))
        api = await stack.enter_async_context(talking(tmp_path, cloud.endpoint, local.endpoint))
        thread = await api.opened()
        limits = [{"window": "day", "tokens": 50_000, "warn_at": 0.02}]
        await api.put(f"/v1/threads/{thread}/budget", json={"limits": limits})
        answers = [(await said(api, thread, f"hello {n}"))[0]["answer"] for n in range(3)]
        called = await happened(api, thread, "ModelCalled")
        allowed = [request.body["max_tokens"] for request in (*cloud.requests, *local.requests)]
    assert answers == ["Big.", "Big.", "Small."]
    assert [one.get("because", "") for one in called] == ["", "", "most of a budget is spent"]
    assert allowed == [1_200, 1_200, 600]
