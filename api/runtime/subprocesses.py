"""Processes that a process starts: kept running as long as it lives itself, and no longer.

A child is joined to its parent by a socket. The child sends a heartbeat over it from its event loop, and stops when the
parent's end is closed, however that came about. What a child prints goes through a pipe to our own standard output, so
that a reader that does not read cannot stop it.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from api.runtime.output import Output, forward
from api.runtime.process import ENDING, READY, STACK_SIGNAL
from api.runtime.watchdog import STOP_LIMIT_S, Silence
from domain.errors import ThreadfoldError

SILENT_LEASES = 2.5
"""Leases for which a child may send no heartbeat: its turns have been taken over long before."""

START_LIMIT_S = 600.0
"""Seconds until a child sends its first heartbeat, at most: agents may load models, and a database may recover. It
sends that before it runs a turn."""

CHILD_STOP_LIMIT_S = STOP_LIMIT_S + 3.0
"""Seconds that a child has to stop before it is killed; it ends by itself before that, and says what kept it."""

DUMP_S = 0.3
"""Seconds that a child has to write its stacks before it is killed."""

KILL_S = 5.0
"""Seconds that a killed child may take to be gone."""

POLL_S = 0.1
"""Seconds between two looks at whether a child has ended."""

DRAIN_S = 1.0
"""Seconds in which the output of a child that has ended is read to its end: a process of its own may hold it open."""

_log = logging.getLogger(__name__)


class SubprocessEnded(ThreadfoldError):
    """A process has ended that was to run, with an exit status; None: it was silent for too long, and was killed."""

    def __init__(self, words: str, status: int | None) -> None:
        super().__init__(words)
        self.status = status


@dataclass
class Subprocess:
    """A process of `threadfold` with some arguments, one after another: `run` starts one and returns when it ends.

    What is in `environment` is added to our own. `silence` is how many seconds it may send no heartbeat, `stop_within`
    how many it may take to stop.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    output: Output
    silence: float
    descriptors: Sequence[int] = ()
    program: Sequence[str] = (sys.executable, "-m", "api")
    stop_within: float = CHILD_STOP_LIMIT_S
    ready: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Set once one of its processes was ready."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a process that stops is to be killed at once."""
    served: bool = field(init=False, default=False)
    """Whether the last process was ready: what ended it then was no failure to start."""
    over: bool = field(init=False, default=False)
    """Whether the last process has said that its work is over. One that did not may have been ended by user code."""
    ailing: str | None = field(init=False, default=None)
    """What does not work in the process, by its own account."""

    async def run(self) -> None:
        """Run a process; end it on cancellation. Raises `SubprocessEnded`, and `OSError` if it cannot start."""
        self.served = self.over = False
        with ExitStack() as stack:
            ours, its = socket.socketpair()
            stack.enter_context(ours).settimeout(0)
            with its:
                process, printed = self._start(its.fileno())
            stack.enter_context(printed)
            try:
                await self._attend(process, printed, ours)
            finally:
                self.ailing = None
                await self._end(process)

    def was_well(self) -> bool:
        """Say whether the last process was ready before it ended: then another one can be started at once."""
        return self.served

    def _start(self, lifeline: int) -> tuple[subprocess.Popen[bytes], BinaryIO]:
        """Start a process, and return it with what it prints.

        Not by the event loop: uvloop loses descriptors for ever where there are too few to start a process.
        """
        reading, writing = os.pipe()
        printed = os.fdopen(reading, "rb", buffering=0)
        try:
            # In a session of its own, it does not hear the terminal's Ctrl-C: we pass on what is to be done.
            # With no input, user code that asks for some gets an error, and does not wait for ever.
            process = subprocess.Popen(  # noqa: S603  (our own program)
                [*self.program, *self.arguments, "--lifeline", str(lifeline)],
                env={**os.environ, **self.environment},
                pass_fds=[*self.descriptors, lifeline],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=writing,
            )
        except BaseException:
            printed.close()
            raise
        finally:
            os.close(writing)
        return process, printed

    async def _attend(self, process: subprocess.Popen[bytes], printed: BinaryIO, lifeline: socket.socket) -> None:
        """Hand on what a process prints, and listen to its heart, until it ends or has to be killed."""
        printing = asyncio.create_task(forward(printed, self.output), name=f"output of {self.name}")
        listening = asyncio.create_task(self._listen(lifeline), name=f"heartbeats of {self.name}")
        ending = asyncio.create_task(_ended(process), name=f"end of {self.name}")
        try:
            await asyncio.wait([listening, ending], return_when=asyncio.FIRST_COMPLETED)
            if process.poll() is None:
                why = listening.result()
                _log.error("The process %d (%s) %s: it is killed and replaced", process.pid, self.name, why)
                await _kill(process, stacks=True)
                raise SubprocessEnded(f"process {process.pid} {why} and was killed", None)
            _kill_group(process)
            with suppress(OSError):  # its last words may not have been heard yet
                if heard := lifeline.recv(65_536):
                    self._note(heard)
            raise SubprocessEnded(f"process {process.pid} ended {_status(process.returncode)}", process.returncode)
        finally:
            await self._end(process)
            await asyncio.wait([printing], timeout=DRAIN_S)
            for task in (printing, listening, ending):
                task.cancel()
            for outcome in await asyncio.gather(printing, listening, ending, return_exceptions=True):
                if isinstance(outcome, Exception):
                    _log.error("Looking after the process %d (%s) failed", process.pid, self.name, exc_info=outcome)

    async def _listen(self, lifeline: socket.socket) -> str:
        """Wait until a process has been silent for too long, and say so."""
        loop = asyncio.get_running_loop()
        limit, begun = START_LIMIT_S, False
        interval = self.silence / 20
        silence = Silence(interval, loop.time())
        # A read that is cancelled may lose what it has just read: so it goes on from one look to the next.
        reading = asyncio.create_task(loop.sock_recv(lifeline, 65_536))
        try:
            while True:
                await asyncio.wait([reading], timeout=interval)
                heard = b""
                if reading.done():
                    with suppress(ConnectionError):
                        heard = reading.result()
                    reading = asyncio.create_task(loop.sock_recv(lifeline, 65_536))
                if heard:
                    begun = True
                    limit = self.stop_within if self._note(heard).startswith(ENDING) else self.silence
                    silence.heard()
                else:
                    await asyncio.sleep(interval / 2)  # of a socket that is closed, nothing comes at once
                if silence.look(loop.time()) > limit:
                    return (
                        f"has sent no heartbeat for {silence.seconds:.1f} s"
                        if begun
                        else f"sent no heartbeat within {silence.seconds:.0f} s of its start"
                    )
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _note(self, heard: bytes) -> str:
        """Take over what a process says of itself, and return its last words."""
        lines = heard.decode(errors="replace").splitlines()
        words = lines[-1]
        self.ailing = words[1:] or None
        if any(line.startswith(READY) for line in lines):
            self.ready.set()
            self.served = True
        self.over = words.startswith(ENDING)
        return words

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a process to stop, and kill it if it does not do so in time, or a second request says to hurry."""
        if process.poll() is not None:
            return
        process.terminate()
        ending = asyncio.create_task(_ended(process), name=f"end of {self.name}")
        hurrying = asyncio.create_task(self.hurry.wait(), name=f"hurry of {self.name}")
        try:
            await asyncio.wait([ending, hurrying], timeout=self.stop_within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurrying.cancel()
            if process.poll() is None:
                why = "is not waited for" if self.hurry.is_set() else f"did not stop within {self.stop_within:g} s"
                _log.error("The process %d (%s) %s: it is killed", process.pid, self.name, why)
                await _kill(process, stacks=not self.hurry.is_set())
            await asyncio.gather(ending, hurrying, return_exceptions=True)


async def _kill(process: subprocess.Popen[bytes], *, stacks: bool) -> None:
    """Kill a process, and with it those of its own that are in its group. It may write its stacks before."""
    if stacks:
        process.send_signal(STACK_SIGNAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(DUMP_S):
                await _ended(process)
    _kill_group(process)
    with suppress(TimeoutError):  # the kernel may not let it go, such as from a disk that hangs
        async with asyncio.timeout(KILL_S):
            await _ended(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and of those that it has started: its turns are run again elsewhere."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended."""
    while process.poll() is None:  # noqa: ASYNC110  (another process can only be asked again)
        await asyncio.sleep(POLL_S)


def _status(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"by {signal.Signals(-returncode).name}"
    return f"with status {returncode}"
