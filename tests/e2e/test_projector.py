"""Read models are kept up to date by a process beside the server: it may die, and it does not outlive the server."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, threadfold

PATIENCE = 30.0


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with threadfold(tmp_path, DATABASE_URL=database_url, PROJECTIONS="beside", LEASE_SECONDS="2") as server:
        yield server


def children(pid: int) -> Sequence[int]:
    found = []
    for directory in Path("/proc").iterdir():
        try:
            status = (directory / "stat").read_text() if directory.name.isdigit() else ""
        except OSError:
            continue
        if status and int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(directory.name))
    return found


async def until_projected(server: ServerProcess, turns: int) -> None:
    """Take a turn, and wait until the summaries know of so many in all."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        begun = await client.post("/v1/agent/invoke", json={"thread_id": str(uuid4()), "user_input": "hello"})
        assert begun.is_success, begun.text
        async with asyncio.timeout(PATIENCE):
            while sum(row["turns"] for row in (await client.get("/v1/threads")).json()["items"]) < turns:
                await asyncio.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while runs(pid):
            await asyncio.sleep(0.05)


async def test_another_projector_goes_on_where_one_was_killed(server: ServerProcess) -> None:
    await until_projected(server, 1)
    (first,) = children(server.pid)
    os.kill(first, signal.SIGKILL)
    await gone(first)
    await until_projected(server, 2)
    (second,) = children(server.pid)
    assert second != first


async def test_a_projector_ends_with_its_server_however_that_ends(server: ServerProcess) -> None:
    await until_projected(server, 1)
    (projector,) = children(server.pid)
    await server.kill()
    await gone(projector)
    await server.start()
    await until_projected(server, 2)
    (projector,) = children(server.pid)
    await server.stop()
    assert not runs(projector)


async def test_inside_there_is_no_other_process(database_url: str, tmp_path: Path) -> None:
    async with threadfold(tmp_path, DATABASE_URL=database_url, PROJECTIONS="inside") as server:
        await until_projected(server, 1)
        assert children(server.pid) == []
