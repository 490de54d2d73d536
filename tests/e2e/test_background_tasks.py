"""What keeps a service up unasked: it runs again when it dies, and readiness says so meanwhile."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, kill_postgres, threadfold
from tests.e2e.test_projector import children
from tests.support.http import running_api

PATIENCE = 120.0


async def get(server: ServerProcess, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
        return await client.get(path)


async def until_ready(server: ServerProcess) -> None:
    async with asyncio.timeout(PATIENCE):
        while not (await get(server, "/health/ready")).is_success:
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_task_that_does_not_run_makes_the_process_unready_until_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("domain.application.streaming.broadcast.POLL_INTERVAL_S", 0.01)
    async with running_api(database_url="memory://") as api:
        runtime, broken = api.service.runtime, asyncio.Event()
        listen = runtime.turns.services.broadcast._listeners

        class Breaking(dict[Any, Any]):
            def __iter__(self) -> Any:
                broken.set()
                raise RuntimeError("unforeseen")

        assert (await api.get("/health/ready")).is_success
        assert 'threadfold_background_task_up{task="signals"} 1.0' in (await api.get("/metrics")).text
        runtime.turns.services.broadcast._listeners = Breaking()  # type: ignore[assignment]
        async with asyncio.timeout(PATIENCE):
            while (answer := await api.get("/health/ready")).status_code != 503:
                await asyncio.sleep(0.01)
        assert "signals" in answer.json()["detail"]
        assert 'threadfold_background_task_up{task="signals"} 0.0' in (await api.get("/metrics")).text

        runtime.turns.services.broadcast._listeners = listen
        async with asyncio.timeout(PATIENCE):
            while not (await api.get("/health/ready")).is_success:
                await asyncio.sleep(0.05)
        metrics = (await api.get("/metrics")).text
        assert 'threadfold_background_task_up{task="signals"} 1.0' in metrics
        assert 'threadfold_background_task_restarts_total{task="signals"} 0.0' not in metrics


async def test_a_process_that_cannot_be_started_is_tried_until_it_can(database_url: str, tmp_path: Path) -> None:
    server = threadfold(tmp_path, DATABASE_URL=database_url, PROJECTIONS="beside", LEASE_SECONDS="60")
    async with server:
        (projector,) = children(server.pid)
        async with httpx.AsyncClient(base_url=server.url, timeout=30, trust_env=False) as client:
            assert (await client.get("/health/ready")).is_success  # the connection to ask over afterwards
            before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (open_files(server.pid), before[1]))
            os.kill(projector, signal.SIGKILL)
            await until(lambda: server.said().count("Too many open files") >= 1)
            answer = await client.get("/health/ready")
            assert (answer.status_code, "projector" in answer.json()["detail"]) == (503, True)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
            await until(lambda: [pid for pid in children(server.pid) if pid != projector])
        await until_ready(server)


def open_files(pid: int) -> int:
    """Say which limit lets a process open no further file."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


@pytest.mark.parametrize(("options", "whole"), [([], False), (["--workers", "2"], True)], ids=["alone", "children"])
async def test_an_embedded_postgres_that_was_killed_is_started_again(
    tmp_path: Path, options: list[str], whole: object
) -> None:
    server = threadfold(tmp_path, *options, AGENTS="tests.support.agents:slow", LEASE_SECONDS="2")
    async with server:
        body = {"user_input": "go", "graph": "slow"}
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
            thread = (await client.post("/v1/agent/invoke", json=body)).json()["thread_id"]
        if whole:
            kill_postgres(tmp_path / "data")
        else:
            pid_file = tmp_path / "data" / "postgres" / "cluster" / "postmaster.pid"
            os.kill(int(pid_file.read_text().split(maxsplit=1)[0]), signal.SIGKILL)
        await until(lambda: "answers again after" in server.said())
        await until_ready(server)
        async with asyncio.timeout(PATIENCE):
            while (await get(server, f"/v1/threads/{thread}")).json().get("status") != "idle":
                await asyncio.sleep(0.1)
        assert server.said().count("It is restarted") == 1
