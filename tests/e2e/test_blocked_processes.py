"""Nodes that block, print or end the event loop: the others go on, and the process is replaced."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.server_process import ServerProcess, threadfold
from tests.support.faulty_agents import NAMES

LEASE_S = 4.0


@asynccontextmanager
async def serving(database_url: str, directory: Path, *options: str, **settings: str) -> AsyncIterator[ServerProcess]:
    ours = {"DATABASE_URL": database_url, "AGENTS": NAMES, "LEASE_SECONDS": f"{LEASE_S:g}", "MAX_CONNECTIONS": "5"}
    server = threadfold(directory, *options, **{**ours, **settings})
    await server.start()
    try:
        yield server
    finally:
        for _ in range(2):  # the second one does not wait for what is blocked; the death of a parent alone would
            if server.running:
                server.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.5)
        await server.ended()


async def ask(server: ServerProcess, method: str, path: str, limit: float = 60.0, **how: Any) -> Any:
    async with httpx.AsyncClient(base_url=server.url, timeout=limit, trust_env=False) as client:
        response = await client.request(method, path, **how)
        assert response.is_success, response.text
        return response.json()


async def begin(server: ServerProcess, graph: str, said: str = "go") -> str:
    body = {"user_input": said, "graph": graph}
    return str((await ask(server, "POST", "/v1/agent/invoke", json=body))["thread_id"])


async def until_said(server: ServerProcess, pattern: str, times: int = 1) -> list[str]:
    async with asyncio.timeout(120):
        while len(found := re.findall(pattern, server.said())) < times:
            await asyncio.sleep(0.05)
    return found


async def until_idle(server: ServerProcess, thread: str) -> None:
    """Wait until a thread's turn is over. A request may come to a process that is blocked: then another one is made."""
    async with asyncio.timeout(120):
        while True:
            try:
                if (await ask(server, "GET", f"/v1/threads/{thread}", limit=3))["status"] == "idle":
                    return
            except (httpx.TransportError, AssertionError):
                pass
            await asyncio.sleep(0.1)


async def test_what_a_node_prints_blocks_no_process_and_arrives(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, "--workers", "2") as server:
        threads = [await begin(server, "printer", f"400{how}") for how in ("", " whole") for _ in range(2)]
        for thread in threads:
            await until_idle(server, thread)
        await server.stop()
    assert server.said().count("x" * 1_023) >= 4 * 400


async def test_a_blocked_process_is_replaced_within_three_leases_and_the_others_go_on(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path, "--workers", "2") as server:
        blocked = await begin(server, "blocker")
        (silent,) = (await until_said(server, r"has sent no heartbeat for (\d+\.\d) s: it is killed and replaced"))[:1]
        assert 2.5 * LEASE_S <= float(silent) < 3 * LEASE_S
        quick = await begin_patiently(server, "quick")
        await until_idle(server, quick)
        said = server.said()
        assert re.search(
            r"ERROR api.runtime.watchdog: The event loop is blocked for \d+\.\d s so far by .* in _block_its_thread",
            said,
        )
        assert re.search(r"_block_its_thread\n *time\.sleep\(3_600\)", said), "no stack"
        assert blocked in said


async def begin_patiently(server: ServerProcess, graph: str) -> str:
    """Begin a turn; again where the request came to a process that was blocked or killed."""
    async with asyncio.timeout(120):
        while True:
            try:
                body = {"user_input": "go", "graph": graph}
                answer = await ask(server, "POST", "/v1/agent/invoke", limit=3, json=body)
                return str(answer["thread_id"])
            except httpx.TransportError:
                await asyncio.sleep(0.1)


async def test_a_process_that_holds_the_interpreter_is_replaced_and_its_stack_written(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path, "--workers", "1", LEASE_SECONDS="1") as server:
        await begin(server, "holder")
        await until_said(server, "it is killed and replaced")
        await until_said(server, r"Current thread .*\n  File .* in _block_and_hold_the_interpreter")


async def test_a_single_process_has_a_parent_on_request_which_replaces_it(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, "--workers", "1") as server:
        (worker,) = await ask(server, "GET", "/v1/workers")
        assert int(worker["name"].rpartition(":")[2]) != server.pid
        await begin(server, "leaver")
        await until_said(server, "The event loop has ended while the process was at work")
        await until_said(server, r"process \d+ ended with status 70")
        await until_idle(server, await begin_patiently(server, "quick"))
        assert "1 process and its parent" in server.said()


async def test_a_signal_ends_a_blocked_child_in_bounded_time_and_a_second_one_at_once(
    database_url: str, tmp_path: Path
) -> None:
    async with serving(database_url, tmp_path, "--workers", "2", LEASE_SECONDS="600") as server:
        await begin(server, "holder")
        await until_said(server, "holding the interpreter")
        server.send_signal(signal.SIGTERM)
        await until_said(server, "Threadfold stops")
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        await server.ended()
        assert "is stopped at once: it is killed" in server.said()


async def test_one_signal_ends_a_blocked_process_in_bounded_time(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, LEASE_SECONDS="2") as server:
        await begin(server, "blocker")
        await until_said(server, "_block_its_thread")
        server.send_signal(signal.SIGTERM)
        await server.ended()
        assert "The process did not stop within" in server.said()


async def test_a_process_whose_loop_has_ended_exits(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path) as server:
        await begin(server, "leaver")
        await server.ended()
        assert server.status == 70
