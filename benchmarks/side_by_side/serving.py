"""A service in processes of its own, and the load that contestants put on it."""

import asyncio
import os
import socket
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.side_by_side.cpu import tree_cpu
from benchmarks.side_by_side.figures import Figures, options, quantiles
from benchmarks.side_by_side.load import HOST, drive
from infrastructure.settings import CHECKOUT

PATIENCE = 60.0
"""Seconds that a service may take until it answers."""

PAUSE = 0.05

RESTING = 0.03
"""Seconds of CPU that processes take in a quarter of a second, at most, when they have nothing to do."""


@dataclass(frozen=True)
class Service:
    """A service that runs. `pid` is its first process; all others are below it."""

    port: int
    pid: int


Scripts = Callable[[int, int], Awaitable[Sequence[Sequence[bytes]]]]
"""Makes, for so many clients, the requests of each: so many turns of a conversation of its own."""

Settle = Callable[[int], Awaitable[None]]
"""Waits until so many turns, all since the beginning, have ended."""


def load_options(**more: Callable[[str], object]) -> Namespace:
    """Read `clients`, such as 16x20,64x5: how many at the same time, and how many turns each takes."""
    return options(clients=_clients, processes=int, **more)


def _clients(text: str) -> Sequence[tuple[int, int]]:
    return [(int(count), int(turns)) for count, _, turns in (part.partition("x") for part in text.split(","))]


@asynccontextmanager
async def serving(module: str, arguments: Sequence[str], port: int, env: Mapping[str, str]) -> AsyncIterator[Service]:
    """Start a module as a service, and stop it at the end. It may say what it likes to our standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=CHECKOUT, env={**os.environ, **env}, stdout=sys.stderr
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _listens(port):
                if process.returncode is not None:
                    raise RuntimeError(f"{module} has ended with status {process.returncode}")
                await asyncio.sleep(PAUSE)
        yield Service(port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def free_port() -> int:
    """Find a port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def loaded(arguments: Namespace, service: Service, scripts: Scripts, status: int, settle: Settle) -> Figures:
    """Put each load on the service, one after the other. Anything but the `status` ends it all."""
    told: Figures = {}
    await drive(service.port, await scripts(8, 5))  # what is loaded late is loaded now, in every process
    done = 8 * 5
    await settle(done)
    await _rest(service.pid, arguments.postmaster)
    for clients, turns in arguments.clients:
        made, total = await scripts(clients, turns), clients * turns
        server, postgres = tree_cpu(service.pid), tree_cpu(arguments.postmaster)
        began = asyncio.get_running_loop().time()
        outcome = await drive(service.port, made)
        done += total
        await settle(done)
        took = asyncio.get_running_loop().time() - began
        if set(outcome.statuses) != {status}:
            raise RuntimeError(f"{clients} clients got {dict(outcome.statuses)}")
        told[str(clients)] = {
            "turns_per_s": total / took,
            **quantiles(outcome.seconds),
            "server_us": (tree_cpu(service.pid) - server) / total * 1e6,
            "postgres_us": (tree_cpu(arguments.postmaster) - postgres) / total * 1e6,
            "clients_share": outcome.cpu / outcome.wall,
            "wall_s": took,
            "turns": total,
        }
    return told


async def _rest(*pids: int) -> None:
    """Wait until processes have nothing to do: one of them may still be starting when the first requests come."""
    used = -1.0
    async with asyncio.timeout(PATIENCE):
        while (now := sum(map(tree_cpu, pids))) - used > RESTING:
            used = now
            await asyncio.sleep(5 * PAUSE)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
