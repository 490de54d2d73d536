"""A turn that kills each process that runs it, innocent turns beside it, and a supervisor that restarts the server."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, threadfold

AGENTS = "tests.support.faulty:killer,tests.support.faulty:sleeper"


async def begin(client: httpx.AsyncClient, agent: str, said: str = "go") -> str:
    thread: str = (await client.post("/v1/agent/invoke", json={"user_input": said, "graph": agent})).json()["thread_id"]
    return thread


async def events(client: httpx.AsyncClient, thread: str) -> Sequence[Any]:
    found: Sequence[Any] = (await client.get(f"/v1/threads/{thread}/events")).json()["items"]
    return found


async def restarted(server: ServerProcess, deaths: list[int]) -> None:
    """Start the server again whenever it dies, as a supervisor does."""
    while True:
        assert server._process
        deaths.append(await server._process.wait())
        await server.start()


async def test_a_turn_that_kills_its_process_fails_and_no_other_turn_does(database_url: str, tmp_path: Path) -> None:
    settings = {"AGENTS": AGENTS, "LEASE_SECONDS": "2", "DATABASE_URL": database_url, "MAX_CONNECTIONS": "5"}
    server = threadfold(tmp_path, **settings)
    deaths: list[int] = []
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        supervisor = asyncio.create_task(restarted(server, deaths))
        innocent = [await begin(client, "sleeper", "3") for _ in range(3)]
        poison = await begin(client, "killer")
        ended: Counter[str] = Counter()
        async with asyncio.timeout(150):
            while ended.total() < len(innocent) + 1:
                await asyncio.sleep(1)
                try:
                    told = {thread: await events(client, thread) for thread in (*innocent, poison)}
                except (httpx.TransportError, KeyError, ValueError):  # it is dead just now, or starts
                    continue
                ends = [event for thread in told for event in told[thread] if event["type"].startswith("Turn")]
                ended = Counter(e["type"] for e in ends if e["type"] in {"TurnCompleted", "TurnFailed"})
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)
    assert ended == {"TurnCompleted": len(innocent), "TurnFailed": 1}, server.said()
    (failed,) = [event for event in told[poison] if event["type"] == "TurnFailed"]
    assert failed["data"]["reason"] == "resumed_too_often"
    assert "alone" in failed["data"]["detail"]
    assert len(deaths) == 2, "after two crashes, it runs alone and takes no other process with it"


@pytest.mark.parametrize("crashes", [2])
async def test_after_its_own_process_was_killed_twice_an_innocent_turn_completes_alone(
    database_url: str, tmp_path: Path, crashes: int
) -> None:
    settings = {"AGENTS": AGENTS, "LEASE_SECONDS": "1", "DATABASE_URL": database_url, "MAX_CONNECTIONS": "5"}
    server = threadfold(tmp_path, **settings)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        thread = await begin(client, "sleeper", "4")
        for times in range(crashes):
            async with asyncio.timeout(60):
                while [e["type"] for e in await events(client, thread)].count("TurnResumed") < times:
                    await asyncio.sleep(0.1)
            await server.kill()
            await server.start()
        async with asyncio.timeout(90):
            while (await client.get(f"/v1/threads/{thread}")).json()["status"] != "idle":
                await asyncio.sleep(0.2)
        assert "runs alone" in server.said()
        assert [e["type"] for e in await events(client, thread)][-1] == "TurnCompleted"
