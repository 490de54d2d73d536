"""The example of a returns desk, served, with its streaming client and a scripted endpoint."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from examples.returns.client import events
from examples.returns.shop import SHOP
from infrastructure.settings import CHECKOUT
from tests.fakes.openai_server import Cut, OpenAIServer, Reply, Request, completion, stream
from tests.support.http import Api, running_api


def answer(request: Request) -> Reply:
    """Answer by what is asked, as a model would: questions of nodes outside of the conversation, then the customer."""
    asked = str(request.body["messages"][-1]["content"])
    if "want to return something" in asked:
        text = json.dumps("other" if "open" in asked else "return")
    elif "May we take back" in asked:
        text = json.dumps({"accepted": "teapot" not in asked, "reason": "as new"})
    else:
        text = "We are open all day."
    pieces = [text[:8], text[8:]]
    return stream(*pieces) if request.body.get("stream") else completion(text)


@asynccontextmanager
async def serving(agent: str, database_url: str = "memory://") -> AsyncIterator[Api]:
    async with (
        OpenAIServer(otherwise=answer) as model,
        running_api(database_url=database_url, llm_endpoint=model.endpoint, llm_model="test", agents=(agent,)) as api,
    ):
        yield api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    SHOP.forget()
    async with serving("examples.returns.agent:desk") as api:
        yield api


class Client:
    """The example's client as a process of its own, at a keyboard."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.printed = ""

    @classmethod
    async def start(cls, url: str) -> "Client":
        command = (sys.executable, "-m", "examples.returns.client", url, "mia")
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, cwd=CHECKOUT, stdin=pipe, stdout=pipe))

    async def type(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def read(self, until: str) -> str:
        """Read what it prints until a text has come."""
        assert self._process.stdout
        printed = ""
        async with asyncio.timeout(120):
            while until not in printed:
                piece = await self._process.stdout.read(1000)
                assert piece, f"It ended, after {printed!r}"
                printed += piece.decode()
        self.printed += printed
        return printed

    async def leave(self) -> int:
        assert self._process.stdin
        self._process.stdin.close()
        async with asyncio.timeout(60):
            return await self._process.wait()


async def waiting(api: Api) -> tuple[str, dict[str, Any]]:
    """Wait for a call that a person has to approve; return its thread and the approval."""
    async with asyncio.timeout(120):
        while True:
            for thread in (await api.get("/v1/threads")).json()["items"]:
                path = f"/v1/threads/{thread['thread_id']}/approvals"
                for approval in (await api.get(path)).json()["items"]:
                    return path, approval
            await asyncio.sleep(0.05)


async def test_a_customer_returns_an_order(api: Api) -> None:
    client = await Client.start(str(api.base_url))
    await client.type("I want to return what I bought")
    await client.read("Which order is it about?")
    await client.type("A-17")
    path, approval = await waiting(api)
    assert approval["arguments"] == {"order": "A-17", "dollars": 110}
    granted = {"decision": "grant", "hash": approval["hash"]}
    assert (await api.post(f"{path}/{approval['approval_id']}", json=granted)).is_success
    await client.read("Your return: refunded 110 dollars. The mail about it: sent")
    await client.type("When are you open?")
    assert "We are o" in await client.read("We are open all day.\n")
    assert await client.leave() == 0
    assert [effect.kind for effect in SHOP.effects] == ["refund", "mail"]


async def test_a_return_that_waits_goes_on_after_an_upgrade(database_url: str) -> None:
    SHOP.forget()
    async with serving("tests.support.returns_before:desk_1", database_url) as before:
        thread = await before.opened(graph="returns", subject="mia")
        begun = await before.turn(thread, "I want to return A-17")
        assert begun.json()["status"] == "waiting"
        assert begun.json()["approvals"][0]["node"] == "take_back/pay"
    async with serving("examples.returns.agent:desk", database_url) as api:
        path, approval = await waiting(api)
        granted = {"decision": "grant", "hash": approval["hash"]}
        assert (await api.post(f"{path}/{approval['approval_id']}", json=granted)).is_success
        await api.get(f"/v1/threads/{thread}/stream", params={"after": 0, "until_idle": True})
        messages = (await api.get(f"/v1/threads/{thread}/messages")).json()["items"]
    assert messages[-1]["content"] == "Your return: refunded 110 dollars. The mail about it: sent"
    assert [effect.kind for effect in SHOP.effects] == ["refund", "mail"]


async def test_the_client_continues_after_the_last_event_that_it_has() -> None:
    def told(version: int) -> Reply:
        event = f'id: {version}\nevent: StateUpdated\ndata: {{"version": {version}}}\n\n'
        return Reply([event.encode(), Cut()], headers={"content-type": "text/event-stream"})

    async with OpenAIServer(told(1), told(2)) as server:
        with httpx.Client(base_url=server.endpoint) as http:
            following = events(http, "t")
            received = [await asyncio.to_thread(next, following) for _ in range(2)]
    assert received == [("StateUpdated", {"version": 1}), ("StateUpdated", {"version": 2})]
    assert [request.headers["last-event-id"] for request in server.requests] == ["0", "1"]
