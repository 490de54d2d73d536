"""Rolling deployments: processes of one database that know different agents."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server_process import ServerProcess, threadfold


def serving(directory: Path, database_url: str, *agents: str) -> ServerProcess:
    directory.mkdir(exist_ok=True)
    named = ",".join(f"tests.support.faulty:{name}" for name in agents)
    return threadfold(directory, DATABASE_URL=database_url, AGENTS=named, LEASE_SECONDS="2", MAX_CONNECTIONS="5")


async def ask(server: ServerProcess, method: str, path: str, **how: Any) -> Any:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        response = await client.request(method, path, **how)
        assert response.is_success, response.text
        return response.json()


async def begin(server: ServerProcess, agent: str, said: str = "hi") -> str:
    thread: str = (await ask(server, "POST", "/v1/agent/invoke", json={"user_input": said, "graph": agent}))[
        "thread_id"
    ]
    return thread


async def until_idle(server: ServerProcess, threads: list[str]) -> None:
    async with asyncio.timeout(60):
        for thread in threads:
            while (await ask(server, "GET", f"/v1/threads/{thread}"))["status"] != "idle":
                await asyncio.sleep(0.1)


async def test_each_turn_runs_where_its_agent_is_known(database_url: str, tmp_path: Path) -> None:
    before = serving(tmp_path / "before", database_url, "both", "old", "sleeper")
    after = serving(tmp_path / "after", database_url, "both", "new", "sleeper")
    async with before, after:
        threads = []
        for _ in range(6):
            threads += [await begin(before, "old"), await begin(after, "new"), await begin(before, "both")]
        await until_idle(before, threads)
        # Turns that are lent go on elsewhere when their borrower stops, and graceful stops blame no turn.
        long = [await begin(after, "sleeper", "6") for _ in range(4)]
        await after.stop()
        await after.start()
        threads += [await begin(after, "new") for _ in range(4)]
        await until_idle(after, [*threads, *long])
        events: Counter[str] = Counter()
        for thread in [*threads, *long]:
            events.update(e["type"] for e in (await ask(after, "GET", f"/v1/threads/{thread}/events"))["items"])
    assert events["TurnCompleted"] == len(threads) + len(long)
    assert events["TurnFailed"] == 0
    for server in (before, after):
        assert server.said().count("No worker knows the agent") <= 3, "once for each agent, not for each turn"
