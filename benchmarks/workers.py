"""How soon a turn begins, how soon another worker goes on with it, and what a stream costs.

    .venv/bin/python -m benchmarks.workers latency     from POST to the first event of the stream, on an idle system
    .venv/bin/python -m benchmarks.workers takeover    from SIGKILL, and from SIGTERM, to the turn in another process
    .venv/bin/python -m benchmarks.workers streams     memory of 2,000 idle streams

Each starts servers of its own, with the settings that a new user has, on the embedded PostgreSQL (fsync on).
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from domain.ids import ThreadId, shard_of, slice_of
from infrastructure.embedded.server import EmbeddedPostgres
from tests.e2e.server_process import ServerProcess, threadfold

AGENTS = "tests.support.agents:stuck"


def client(server: ServerProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False, limits=limits)


async def latency(directory: Path, times: int = 300) -> None:
    """The stream is open before the message is sent, as a chat's would be."""
    first, worked = [], []
    async with threadfold(directory) as server, client(server) as api:
        for number in range(times):
            thread = (await api.post("/v1/threads", json={})).json()["thread_id"]
            async with api.stream("GET", f"/v1/threads/{thread}/stream") as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                began = time.perf_counter()
                said = asyncio.create_task(
                    api.post(f"/v1/threads/{thread}/turns", json={"user_input": f"What is {number} + 1?"})
                )
                seen: dict[str, float] = {}
                async for line in lines:
                    if line.startswith("event: "):
                        seen.setdefault(line.removeprefix("event: "), time.perf_counter() - began)
                    if line == "event: TurnCompleted":
                        break
                await said
            first.append(seen["TurnStarted"])
            worked.append(seen["NodeCompleted"])
            await asyncio.sleep(0.02)
    tell("POST to the first event (TurnStarted)", first)
    tell("POST to the worker's first event (NodeCompleted)", worked)


def tell(what: str, seconds: list[float]) -> None:
    hundredths = statistics.quantiles(seconds, n=100)
    print(f"{what}: p50 {hundredths[49] * 1000:.1f} ms, p99 {hundredths[98] * 1000:.1f} ms, {len(seconds)} times")


async def takeover(directory: Path, times: int = 5) -> None:
    async with pair(directory) as (one, other):
        for how in ("SIGKILL", "SIGTERM"):
            taken = [await _taken_over(one, other, how) for _ in range(times)]
            shown = ", ".join(f"{seconds:.1f}" for seconds in taken)
            print(f"{how} to TurnResumed in another process: median {statistics.median(taken):.1f} s ({shown})")


async def _taken_over(one: ServerProcess, other: ServerProcess, how: str) -> float:
    """Stop the server that runs a turn, and wait until the other one has resumed it."""
    async with client(one) as api, client(other) as rest:
        await _shared(rest)
        while True:  # until a turn runs in the one that is to be stopped
            said = await api.post("/v1/agent/invoke", json={"user_input": "go", "graph": "stuck"})
            thread, turn = said.json()["thread_id"], said.json()["turn_id"]
            workers = (await rest.get("/v1/workers")).json()
            shard = _shard_of(thread)
            owner = next(worker["name"] for worker in workers if shard in worker["shards"])
            if owner.endswith(f":{one.pid}"):
                break
            await rest.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        stopping = asyncio.create_task(one.kill() if how == "SIGKILL" else one.stop())
        while not any(e["type"] == "TurnResumed" for e in await _events(rest, thread)):
            await asyncio.sleep(0.02)
        elapsed = time.perf_counter() - began
        await stopping
        await rest.post(f"/v1/threads/{thread}/turns/{turn}/cancel", params={"wait": True})
    await one.start()
    return elapsed


def _shard_of(thread: str) -> int:
    return shard_of(slice_of(ThreadId(UUID(thread))))


async def _shared(api: httpx.AsyncClient) -> None:
    while sorted(len(worker["shards"]) for worker in (await api.get("/v1/workers")).json()) != [32, 32]:
        await asyncio.sleep(0.1)


async def _events(api: httpx.AsyncClient, thread: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await api.get(f"/v1/threads/{thread}/events")).json()["items"]
    return items


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, directory / "postgres")
    settings = {"DATABASE_URL": postgres.url(), "AGENTS": AGENTS}
    for name in ("one", "other"):
        (directory / name).mkdir()
    try:
        async with threadfold(directory / "one", **settings) as one, threadfold(directory / "other", **settings) as two:
            yield one, two
    finally:
        await asyncio.to_thread(postgres.stop)


async def streams(directory: Path, count: int = 2_000) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 3 * count)), hard))
    async with threadfold(directory) as server, client(server) as api:
        threads = [(await api.post("/v1/threads", json={})).json()["thread_id"] for _ in range(count)]
        before = memory(server)
        opened = [await _open(api, thread) for thread in threads]
        await asyncio.sleep(5)
        after, began = memory(server), cpu(server)
        await asyncio.sleep(20)
        busy = (cpu(server) - began) / 20
        print(f"{count} idle streams: {(after - before) / count / 1024:.1f} KiB each; {busy:.1%} of a core while idle")
        for stream, _ in opened:
            await stream.aclose()


async def _open(api: httpx.AsyncClient, thread: str) -> tuple[httpx.Response, AsyncIterator[bytes]]:
    """Open a stream; whoever drops the iterator closes it."""
    response = await api.send(api.build_request("GET", f"/v1/threads/{thread}/stream"), stream=True)
    told = response.aiter_bytes()
    await anext(told)
    return response, told


def memory(server: ServerProcess) -> int:
    """Resident memory of a server's process, in bytes."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def cpu(server: ServerProcess) -> float:
    """Seconds of CPU that a server's process has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


MEASURES = {"latency": latency, "takeover": takeover, "streams": streams}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        asyncio.run(MEASURES[parser.parse_args().what](Path(name)))
