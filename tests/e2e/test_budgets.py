"""64 turns at once in four processes on one limit of their tenant; one process is killed. Ledger and log agree."""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from tests.e2e.server_process import ServerProcess, threadfold
from tests.fakes.openai_server import OpenAIServer, Pause, Reply, Request, completion

PROCESSES = 4
TURNS = 64
LIMIT = 12_000
CALLED = "SELECT payload::jsonb AS called FROM events WHERE type = 'ModelCalled'"
ENDED = "SELECT type, payload::jsonb ->> 'reason' AS reason FROM events WHERE type IN ('TurnCompleted', 'TurnFailed')"


def answer(request: Request) -> Reply:
    """Answer after a moment, with a usage of its own that is a little more than is counted here."""
    prompt = sum(len(message.get("content") or "") for message in request.body["messages"]) // 4
    tools = len(json.dumps(request.body.get("tools", []))) // 4
    most = request.body["max_tokens"]
    usage = {"prompt_tokens": prompt + tools, "completion_tokens": min(most, random.randint(5, 200))}
    slow = Pause(random.uniform(0.05, 0.4))
    reply = completion("word " * 20, usage=usage)
    return Reply(reply.body, reply.status, reply.headers, [slow])


async def say(server: ServerProcess, client: httpx.AsyncClient, thread: str, text: str) -> int | None:
    """Send a message to a thread; None if its process was killed meanwhile."""
    body = {"thread_id": thread, "user_input": text}
    try:
        opened = await client.post(f"{server.url}/v1/agent/invoke", json=body)
    except httpx.TransportError:
        return None
    return opened.status_code


async def idle(client: httpx.AsyncClient, server: ServerProcess, threads: list[str]) -> None:
    """Wait until nothing runs in any thread any more."""
    async with asyncio.timeout(60):
        for thread in threads:
            while True:
                found = await client.get(f"{server.url}/v1/threads/{thread}")
                if found.status_code == 404 or found.json()["status"] == "idle":
                    break
                await asyncio.sleep(0.1)


async def limits(client: httpx.AsyncClient, server: ServerProcess) -> dict[str, Any]:
    (scope,) = (await client.get(f"{server.url}/v1/limits")).json()["scopes"]
    (limit,) = scope["limits"]
    return dict(limit["now"])


async def test_what_is_settled_never_passes_the_limit(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(OpenAIServer(otherwise=answer))
        settings = {
            "DATABASE_URL": database_url,
            "LLM_ENDPOINT": model.endpoint,
            "LEASE_SECONDS": "2",
            "MAX_CONNECTIONS": "5",
        }
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        servers: list[ServerProcess] = []
        for n in range(PROCESSES):
            (tmp_path / str(n)).mkdir()
            servers.append(await stack.enter_async_context(threadfold(tmp_path / str(n), **settings)))
            if n == 0:  # before the others start: they know it from the beginning
                body = {"limits": [{"window": "day", "tokens": LIMIT}]}
                assert (await client.put(f"{servers[0].url}/v1/limits", json=body)).is_success
        threads = [str(uuid4()) for _ in range(TURNS)]
        saying = [
            asyncio.create_task(say(servers[n % PROCESSES], client, thread, f"hello, {n}"))
            for n, thread in enumerate(threads)
        ]
        await asyncio.sleep(0.6)
        await servers[-1].kill()
        accepted = [status for status in await asyncio.gather(*saying) if status is not None]
        await idle(client, servers[0], threads)
        await settled(client, servers[0])
        connection = await asyncpg.connect(database_url)
        try:
            called = [json.loads(row["called"]) for row in await connection.fetch(CALLED)]
            ended = [(row["type"], row["reason"]) for row in await connection.fetch(ENDED)]
        finally:
            await connection.close()
        spent = sum(call["prompt_tokens"] + call["completion_tokens"] for call in called)
        usage = await limits(client, servers[0])
    assert 0.7 * LIMIT < spent <= LIMIT, f"{spent} of {LIMIT} by {len(called)} calls"
    assert usage["spent"]["tokens"] == spent
    assert set(ended) == {("TurnCompleted", None), ("TurnFailed", "budget_exhausted")}
    assert TURNS >= len(ended) >= len(accepted) >= TURNS - TURNS // PROCESSES
    assert len({call["reservation"] for call in called}) == len(called)


async def settled(client: httpx.AsyncClient, server: ServerProcess) -> None:
    """Wait until nothing is reserved any more."""
    async with asyncio.timeout(60):
        while (await limits(client, server))["reserved"]["tokens"]:
            await asyncio.sleep(0.1)
