"""Rolling deployments: processes of one database that know different agents."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server_process import ServerProcess, threadfold


def serving(directory: Path, database_url: str, *agents: str, module: str = "faulty") -> ServerProcess:
    directory.mkdir(exist_ok=True)
    named = ",".join(f"tests.support.{module}:{name}" for name in agents)
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


async def approvals(server: ServerProcess, threads: list[str]) -> dict[str, dict[str, Any]]:
    """Wait until each thread waits for a decision, and return what it is about."""
    found: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(60):
        while len(found) < len(threads):
            for thread in threads:
                items = (await ask(server, "GET", f"/v1/threads/{thread}/approvals"))["items"]
                found |= {thread: items[0]} if items else {}
            await asyncio.sleep(0.1)
    return found


async def test_turns_go_on_in_the_process_that_has_their_node(database_url: str, tmp_path: Path) -> None:
    """The new process has renamed a node without an alias. Both hold shards; each turn ends where its node is."""
    before = serving(tmp_path / "before", database_url, "before", module="renamed_agents")
    after = serving(tmp_path / "after", database_url, "renamed", module="renamed_agents")
    async with before, after:
        old = [await begin(before, "till", "pay") for _ in range(8)]
        new = [await begin(after, "till", "pay") for _ in range(8)]
        pending = await approvals(before, [*old, *new])
        for thread, approval in pending.items():
            server = before if approval["node"] == "settle" else after
            decision = {"hash": approval["hash"], "decision": "grant"}
            await ask(server, "POST", f"/v1/threads/{thread}/approvals/{approval['approval_id']}", json=decision)
        await until_idle(before, [*old, *new])
        outcomes = Counter(
            [(await ask(before, "GET", f"/v1/threads/{thread}"))["last_turn"]["outcome"] for thread in pending]
        )
    assert outcomes == {"completed": 16}
