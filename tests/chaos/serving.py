"""Processes of `threadfold serve`: started for a run, looked at, and stopped within a time that is measured."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.server_process import ServerProcess, threadfold

STOPPED_WITHIN = 30.0
"""Seconds after SIGTERM in which a process and all that it started must be gone."""

SPINS = 0.6
"""The share of a processor from which on a process that has nothing to do counts as spinning."""

USUAL_START = 4.0
"""Seconds that a start takes on a machine that has little else to do, at most."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Seen:
    """A process, by its number and the time at which it began: a number may be given out again."""

    pid: int
    began: str

    @property
    def lives(self) -> bool:
        """Say whether it runs still. A zombie is dead, and waits only for its parent."""
        fields = _stat(self.pid)
        return fields is not None and fields[19] == self.began and fields[0] != "Z"


def family(pid: int) -> Sequence[Seen]:
    """List a process and all that it has started, and so on."""
    fields = _stat(pid)
    if fields is None:
        return []
    return [Seen(pid, fields[19]), *[each for child in _children(pid) for each in family(child)]]


def limit_memory(pid: int, bytes_: int) -> None:
    """Let a process, what it has started and what it will start take only so much of address space each."""
    for each in family(pid):
        with suppress(ProcessLookupError):
            resource.prlimit(each.pid, resource.RLIMIT_AS, (bytes_, bytes_))


async def spinning(processes: Sequence[Seen], seconds: float = 2.0, looks: int = 3) -> Sequence[int]:
    """List those that use a processor at each of some looks, though there is nothing to do."""
    suspects = {each.pid for each in processes}
    for _ in range(looks):
        if not suspects:
            break
        before, began = {pid: _used(pid) for pid in suspects}, time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        suspects = {pid for pid in suspects if (_used(pid) - before[pid]) / passed > SPINS}
    return sorted(suspects)


async def stop_all(servers: Sequence[ServerProcess]) -> list[str]:
    """Send SIGTERM, and say which processes have not gone in time. None is left afterwards."""
    members = {server.pid: family(server.pid) for server in servers}
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    everyone = [each for processes in members.values() for each in processes]
    deadline = time.monotonic() + STOPPED_WITHIN
    while (alive := [each for each in everyone if each.lives]) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    faults = [f"process {each.pid} lives {STOPPED_WITHIN:g} s after SIGTERM: {_name(each.pid)}" for each in alive]
    for each in alive:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    for server in servers:
        await server.kill()
    return faults


def pace_of(*servers: ServerProcess) -> float:
    """Return by how much bounds of time are to be longer here: by how much longer a start took than it usually does."""
    return max(1.0, *[server.start_took / USUAL_START for server in servers])


async def keep_running(server: ServerProcess, ended: Callable[[], None] = lambda: None) -> None:
    """Start a process again whenever it has ended, as systemd would, until this is cancelled."""
    while True:
        if not server.running:
            ended()
            with suppress(AssertionError):  # it ended before it was ready
                await server.start()
        await asyncio.sleep(0.2)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def serving(
    directory: Path, *options: str, faults: list[str], settings: Mapping[str, str], memory: int | None = None
) -> AsyncIterator[ServerProcess]:
    """Serve meanwhile. What does not stop at the end is added to `faults`."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    server = threadfold(directory, *options, **settings)
    try:
        await server.start()
        if memory:
            limit_memory(server.pid, memory)
        yield server
    finally:
        faults += await stop_all([server])


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            with suppress(OSError):
                yield from map(int, (task / "children").read_text().split())


def _stat(pid: int) -> Sequence[str] | None:
    """Read what /proc says of a process after its name: the state first."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _used(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _name(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return "it has just ended"
