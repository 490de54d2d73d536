"""Programs of ours as processes of their own, that serve HTTP on loopback, and can be killed."""

import asyncio
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx

from infrastructure.settings import CHECKOUT, Settings

PATIENCE = 60.0
"""Seconds that a program may take to become ready; a PostgreSQL may have to recover from a crash before."""

GRACE = 30.0
"""Seconds that a program may take to stop."""

PAUSE = 0.05


class ServerProcess:
    """A Python module that serves on `port`. It may be started again after its end, on the same port."""

    def __init__(
        self, module: str, *arguments: str, port: int, ready: str, log: pathlib.Path, settings: Mapping[str, str]
    ) -> None:
        """Prepare only. `ready` is a path that answers 200 once the program serves; `log` takes all it says."""
        self.url = f"http://127.0.0.1:{port}"
        self._command: Sequence[str] = (sys.executable, "-m", module, *arguments)
        self._ready = ready
        self._log = log
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.start_took = 0.0
        """Seconds that the last start took: what a machine that has much else to do makes of everything."""

    async def start(self) -> None:
        """Start, and wait until it serves."""
        began = time.monotonic()
        ours = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in ours}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=CHECKOUT, env={**inherited, **self._settings}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while not await self._serves(client):
                assert self._process.returncode is None, f"It ended:\n{self.said()}"
                assert time.monotonic() < deadline, f"It did not get ready:\n{self.said()}"
                await asyncio.sleep(PAUSE)
        self.start_took = time.monotonic() - began

    @property
    def pid(self) -> int:
        """The process's number. Raise `RuntimeError` if it was never started."""
        if self._process is None:
            raise RuntimeError("It was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.returncode if self._process else None

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, and do not wait."""
        os.kill(self.pid, number)

    async def ended(self) -> None:
        """Wait until it has ended, by itself or by a signal."""
        async with asyncio.timeout(PATIENCE):
            if self._process is not None:
                await self._process.wait()

    async def kill(self) -> None:
        """End it as a power cut would: without a chance to do anything about it."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to end, and insist after a while. Does nothing if it does not run."""
        try:
            async with asyncio.timeout(GRACE):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self.kill()
            raise

    def said(self) -> str:
        """What it wrote to its log."""
        return self._log.read_text(errors="replace")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(self._ready)).is_success
        except httpx.TransportError:
            return False

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):  # Popen's own way looks first, and takes the end away from asyncio
                os.kill(self._process.pid, how)
            await self._process.wait()


def threadfold(directory: pathlib.Path, *options: str, **settings: str) -> ServerProcess:
    """Prepare `threadfold serve` with its data and its log in a directory, and no settings but these."""
    port = free_port()
    ours = {"HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": str(directory / "data"), "PROJECTIONS": "inside"}
    return ServerProcess(
        "api",
        "serve",
        *options,
        port=port,
        ready="/health/ready",
        log=directory / "threadfold.log",
        settings=ours | settings,
    )


def recorded_model(directory: pathlib.Path) -> ServerProcess:
    """Prepare the recorded model of the airline example."""
    port = free_port()
    return ServerProcess(
        "tests.fakes.recorded_model",
        "--port",
        str(port),
        port=port,
        ready="/v1/models",
        log=directory / "recorded_model.log",
        settings={},
    )


def free_port() -> int:
    """Find a port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kill_postgres(data_dir: pathlib.Path) -> int:
    """Kill every process of the embedded PostgreSQL at once, as a power cut would; return how many there were."""
    os.kill(_postmaster(data_dir), signal.SIGSTOP)  # it begins no others from now on
    victims = postgres_processes(data_dir)
    for how in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none notices another's end and cleans up
        for pid in victims:
            with suppress(ProcessLookupError):  # a connection has just ended by itself
                os.kill(pid, how)
    return len(victims)


def postgres_processes(data_dir: pathlib.Path) -> Sequence[int]:
    """List the processes of the embedded PostgreSQL, the first one first."""
    postmaster = _postmaster(data_dir)
    return [postmaster, *_children(postmaster)]


def _postmaster(data_dir: pathlib.Path) -> int:
    pid_file = data_dir / "postgres" / "cluster" / "postmaster.pid"
    return int(pid_file.read_text().split(maxsplit=1)[0])


def _children(parent: int) -> Sequence[int]:
    listing = pathlib.Path("/proc", str(parent), "task", str(parent), "children")
    return [int(pid) for pid in listing.read_text().split()] if listing.exists() else []
