"""Several processes share the turns: they come, go, are killed, and people decide in between."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, threadfold

AGENTS = ",".join(f"tests.support.agents:{name}" for name in ("slow", "stuck", "cashier"))


@pytest.fixture
async def servers(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Give two servers on one database, not started."""
    settings = {"DATABASE_URL": database_url, "AGENTS": AGENTS, "LEASE_SECONDS": "2", "MAX_CONNECTIONS": "5"}
    both = []
    async with AsyncExitStack() as stack:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            server = threadfold(tmp_path / name, **settings)
            stack.push_async_callback(server.stop)
            both.append(server)
        yield both[0], both[1]


async def ask(server: ServerProcess, method: str, path: str, **how: Any) -> Any:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        response = await client.request(method, path, **how)
        assert response.is_success, response.text
        return response.json()


async def until(server: ServerProcess, thread: str, status: str) -> None:
    async with asyncio.timeout(60):
        while (await ask(server, "GET", f"/v1/threads/{thread}"))["status"] != status:
            await asyncio.sleep(0.05)


async def shares(server: ServerProcess) -> list[int]:
    return sorted(len(worker["shards"]) for worker in await ask(server, "GET", "/v1/workers"))


async def until_shared(server: ServerProcess, workers: int) -> None:
    """Wait until every shard has a worker, and none has more than its share."""
    async with asyncio.timeout(60):
        while len(found := await shares(server)) != workers or sum(found) < 64 or max(found) > -(-64 // workers):
            await asyncio.sleep(0.05)


async def test_an_approval_outlives_every_process_and_the_tool_runs_once_as_granted(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = servers
    await one.start()
    said = {"user_input": '/refund {"amount": 5}', "graph": "cashier"}
    thread = (await ask(one, "POST", "/v1/agent/invoke", json=said))["thread_id"]
    await until(one, thread, "waiting")
    await one.kill()
    await other.start()
    (approval,) = (await ask(other, "GET", f"/v1/threads/{thread}/approvals"))["items"]
    await other.stop()
    await other.start()
    decision = {"decision": "grant", "hash": approval["hash"], "arguments": {"amount": 4}}
    await ask(other, "POST", f"/v1/threads/{thread}/approvals/{approval['approval_id']}", json=decision)
    await until(other, thread, "idle")
    events = (await ask(other, "GET", f"/v1/threads/{thread}/events"))["items"]
    types = [event["type"] for event in events]
    assert types.count("ToolStarted") == types.count("ToolSucceeded") == types.count("TurnCompleted") == 1
    (answer,) = [event["data"]["content"] for event in events if event["type"] == "ToolSucceeded"]
    assert answer == "refunded 4"


async def test_shards_are_shared_with_who_comes_and_handed_over_by_who_goes(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = servers
    await one.start()
    assert await shares(one) == [64]
    await other.start()
    await until_shared(one, 2)
    await other.stop()
    await until_shared(one, 1)
    await other.start()
    await until_shared(one, 2)
    await other.kill()
    await until_shared(one, 1)


async def test_a_killed_workers_turn_goes_on_in_another_process_and_is_cancelled_from_a_third_place(
    servers: tuple[ServerProcess, ServerProcess],
) -> None:
    one, other = servers
    await one.start()
    said = {"user_input": "go", "graph": "stuck"}
    accepted = await ask(one, "POST", "/v1/agent/invoke", json=said)
    thread, turn = accepted["thread_id"], accepted["turn_id"]
    await one.kill()
    await other.start()
    async with asyncio.timeout(60):
        while "TurnResumed" not in [
            e["type"] for e in (await ask(other, "GET", f"/v1/threads/{thread}/events"))["items"]
        ]:
            await asyncio.sleep(0.1)
    await one.start()
    ended = await ask(one, "POST", f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
    assert (ended["status"], ended["turn_id"]) == ("cancelled", turn)


async def test_many_processes_behind_one_port(database_url: str, tmp_path: Path) -> None:
    server = threadfold(tmp_path, "--workers", "3", DATABASE_URL=database_url, AGENTS=AGENTS, MAX_CONNECTIONS="5")
    async with server:
        await until_shared(server, 3)
        found = await ask(server, "GET", "/v1/workers")
        answers = await asyncio.gather(
            *[ask(server, "POST", "/v1/agent/invoke", json={"user_input": "go", "graph": "slow"}) for _ in range(30)]
        )
        for answer in answers:
            await until(server, answer["thread_id"], "idle")
        victim = int(found[0]["name"].rpartition(":")[2])
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(60):
            while victim in {int(w["name"].rpartition(":")[2]) for w in await ask(server, "GET", "/v1/workers")}:
                await asyncio.sleep(0.2)
        await until_shared(server, 3)
    assert f"process {victim} ended by SIGKILL" in server.said()
