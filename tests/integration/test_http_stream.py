"""A thread as server-sent events, cut and resumed, from the process that runs the turn and from another one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fakes.openai_server import USAGE, OpenAIServer, Pause, chunk, events
from tests.support.http import Api, running_api

AGENTS = ("tests.support.agents:slow",)


class Told:
    """What a stream has told: events by version, and the text of deltas."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.types: list[str] = []
        self.deltas: list[dict[str, Any]] = []
        self.comments = 0

    async def take(self, lines: AsyncIterator[str], enough: int | None = None) -> None:
        """Read messages until there are `enough` events, or the stream ends."""
        message: dict[str, str] = {}
        async for line in lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                message[name] = value
            elif message:
                self._note(message)
                message = {}
                if enough is not None and len(self.versions) >= enough:
                    return

    def _note(self, message: dict[str, str]) -> None:
        data = json.loads(message["data"])
        if "id" in message:
            assert data["version"] == int(message["id"])
            assert data["type"] == message["event"]
            assert set(data) == {"version", "type", "recorded_at", "data", "metadata"}
            self.versions.append(data["version"])
            self.types.append(data["type"])
        elif message["event"] == "delta":
            assert set(data) == {"after", "offset", "text"}
            assert data["after"] >= max(self.versions, default=0)
            self.deltas.append(data)


async def follow(api: httpx.AsyncClient, thread: str, told: Told, enough: int | None = None, **params: Any) -> None:
    headers = {"Last-Event-ID": str(told.versions[-1])} if told.versions else {}
    path = f"/v1/threads/{thread}/stream"
    async with (
        httpx.AsyncClient(base_url=api.base_url, timeout=30) as client,
        client.stream("GET", path, headers=headers, params=params) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        await told.take(response.aiter_lines(), enough)


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[Api, Api]]:
    """Two services on one database: whichever runs the turn, the other one does not."""
    async with (
        running_api(database_url=database_url, agents=AGENTS) as one,
        running_api(database_url=database_url, agents=AGENTS) as other,
    ):
        yield one, other


async def test_a_thread_from_its_beginning_until_it_is_idle(pair: tuple[Api, Api]) -> None:
    api, _ = pair
    thread = await api.opened()
    await api.turn(thread, "/calculate 2 + 3")
    told = Told()
    await follow(api, thread, told, after=0, until_idle=True)
    page = (await api.get(f"/v1/threads/{thread}/events")).json()["items"]
    assert told.versions == [event["version"] for event in page]
    assert told.types == [event["type"] for event in page]


async def test_cut_and_resumed_from_both_processes_nothing_is_missing_and_nothing_comes_twice(
    pair: tuple[Api, Api],
) -> None:
    thread = await pair[0].opened(graph="slow")
    told, ended = Told(), 0
    for turn in range(8):
        await pair[turn % 2].post(f"/v1/threads/{thread}/turns", json={"user_input": "go", "strategy": "enqueue"})
    cut = 0
    async with asyncio.timeout(60):
        while ended < 8:
            await follow(pair[cut % 2], thread, told, enough=len(told.versions) + 1, after=0)
            ended = told.types.count("TurnCompleted")
            cut += 1
    assert cut >= 50
    assert told.versions == list(range(1, len(told.versions) + 1))
    page = (await pair[0].get(f"/v1/threads/{thread}/events", params={"limit": 1000})).json()["items"]
    assert told.types == [event["type"] for event in page]


def _slowly(text: str) -> list[Any]:
    return [step for start in range(0, len(text), 4) for step in (chunk(text[start : start + 4]), Pause(0.05))]


async def test_the_text_of_a_model_comes_from_whichever_process_calls_it(database_url: str) -> None:
    said = "Good morning, dear customer of ours."
    spoken = events(chunk("", role="assistant"), *_slowly(said), chunk(finish="stop"), USAGE, "[DONE]")
    async with OpenAIServer(spoken, spoken) as model:
        settings = {"database_url": database_url, "llm_endpoint": model.endpoint}
        async with running_api(**settings) as one, running_api(**settings) as other:
            thread = await one.opened()
            for api in (one, other):
                told, last = Told(), (await one.get(f"/v1/threads/{thread}/state")).json()["version"]
                async with asyncio.timeout(60):
                    following = asyncio.create_task(follow(api, thread, told, after=last - 1, until_idle=False))
                    while not told.versions:  # once it has the last event, it hears what is said
                        await asyncio.sleep(0.02)
                    await one.turn(thread, "hello")
                    while "TurnCompleted" not in told.types[1:]:
                        await asyncio.sleep(0.02)
                    following.cancel()
                text = ""
                for delta in told.deltas:
                    assert delta["offset"] == len(text)
                    text += delta["text"]
                assert text == said


async def test_bad_places_to_begin_at_are_refused(pair: tuple[Api, Api]) -> None:
    api, _ = pair
    thread = await api.opened()
    for headers, params, field in (
        ({"Last-Event-ID": "x"}, {}, "Last-Event-ID"),
        ({"Last-Event-ID": "-1"}, {}, "Last-Event-ID"),
        ({}, {"after": -1}, "after"),
    ):
        refused = await api.get(f"/v1/threads/{thread}/stream", headers=headers, params=params)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)
    assert (await api.get("/v1/threads/018f0000-0000-7000-8000-000000000000/stream")).status_code == 404
