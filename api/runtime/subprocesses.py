"""Child processes that run exactly as long as their parent.

A child is connected to its parent by a socket. Its event loop sends heartbeats over it, and it stops when the parent's
end closes, for whatever reason. A child's output goes through a pipe to the parent's standard output, so that a reader
that does not read cannot block the child.
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
"""Leases without a heartbeat after which a child is killed: other workers took its turns over after one lease."""

START_LIMIT_S = 600.0
"""Seconds until a child's first heartbeat: agents may load models, and a database may recover. The first heartbeat
comes before the first turn."""

CHILD_STOP_LIMIT_S = STOP_LIMIT_S + 3.0
"""Seconds that a child has to stop before it is killed; its own watchdog exits earlier, and logs the reason."""

DUMP_S = 0.3
"""Seconds that a child has to write its stacks before it is killed."""

KILL_S = 5.0
"""Seconds that a killed child may take to exit."""

POLL_S = 0.1
"""Seconds between two checks whether a child has ended."""

DRAIN_S = 1.0
"""Seconds for which the output of an ended child is still read: a grandchild may keep the pipe open."""

_log = logging.getLogger(__name__)


class SubprocessEnded(ThreadfoldError):
    """A child has ended unexpectedly. `status` is its exit status; None if it was killed for missing heartbeats."""

    def __init__(self, words: str, status: int | None) -> None:
        super().__init__(words)
        self.status = status


@dataclass
class Subprocess:
    """A child process of `threadfold`: `run` starts it and returns when it has ended, and may be called again.

    `environment` is added to our own. `silence` is the number of seconds without a heartbeat after which it is killed,
    `stop_within` the number of seconds that it has to stop.
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
    """Set once a child was ready."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to kill a stopping child at once."""
    served: bool = field(init=False, default=False)
    """Whether the last child was ready: then it did not fail to start."""
    over: bool = field(init=False, default=False)
    """Whether the last child reported that its work is over. Otherwise user code may have ended it."""
    ailing: str | None = field(init=False, default=None)
    """What does not work in the child, by its own report."""

    async def run(self) -> None:
        """Run a child; stop it on cancellation. Raises `SubprocessEnded`, and `OSError` if it cannot start."""
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
        """Return whether the last child was ready before it ended: then the next one can start at once."""
        return self.served

    def _start(self, lifeline: int) -> tuple[subprocess.Popen[bytes], BinaryIO]:
        """Start a child. Returns it with the pipe of its output.

        The event loop is not used for that: uvloop leaks descriptors when there are too few to start a process.
        """
        reading, writing = os.pipe()
        printed = os.fdopen(reading, "rb", buffering=0)
        try:
            # A new session, so that the terminal's Ctrl-C reaches only the parent, which stops its children.
            # No stdin, so that user code that reads it gets an error instead of waiting for ever.
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
        """Forward a child's output and watch its heartbeats, until it ends or has to be killed."""
        printing = asyncio.create_task(forward(printed, self.output), name=f"output of {self.name}")
        listening = asyncio.create_task(self._listen(lifeline), name=f"heartbeats of {self.name}")
        ending = asyncio.create_task(_ended(process), name=f"end of {self.name}")
        try:
            await asyncio.wait([listening, ending], return_when=asyncio.FIRST_COMPLETED)
            if process.poll() is None:
                why = listening.result()
                _log.error("Process %d (%s) %s: it is killed and replaced", process.pid, self.name, why)
                await _kill(process, stacks=True)
                raise SubprocessEnded(f"process {process.pid} {why} and was killed", None)
            _kill_group(process)
            with suppress(OSError):  # its last heartbeat may not have been read yet
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
                    _log.error("The supervision of process %d (%s) failed", process.pid, self.name, exc_info=outcome)

    async def _listen(self, lifeline: socket.socket) -> str:
        """Wait until a child sends no heartbeat for too long. Returns a sentence about it."""
        loop = asyncio.get_running_loop()
        limit, begun = START_LIMIT_S, False
        interval = self.silence / 20
        silence = Silence(interval, loop.time())
        # A cancelled read may lose data that it has just read, so one read spans several checks.
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
                    await asyncio.sleep(interval / 2)  # a closed socket returns no data at once
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
        """Take over what heartbeats report. Returns the last one."""
        lines = heard.decode(errors="replace").splitlines()
        words = lines[-1]
        self.ailing = words[1:] or None
        if any(line.startswith(READY) for line in lines):
            self.ready.set()
            self.served = True
        self.over = words.startswith(ENDING)
        return words

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask a child to stop. Kill it if it does not stop in time, or when `hurry` is set."""
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
                why = "is stopped at once" if self.hurry.is_set() else f"did not stop within {self.stop_within:g} s"
                _log.error("Process %d (%s) %s: it is killed", process.pid, self.name, why)
                await _kill(process, stacks=not self.hurry.is_set())
            await asyncio.gather(ending, hurrying, return_exceptions=True)


async def _kill(process: subprocess.Popen[bytes], *, stacks: bool) -> None:
    """Kill a child and the processes of its group. With `stacks`, it may first write its stacks."""
    if stacks:
        process.send_signal(STACK_SIGNAL)
        await _ended(process, DUMP_S)
    _kill_group(process)
    await _ended(process, KILL_S)  # the kernel may not end it, for example while a disk hangs


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of a child's process group: its turns run again elsewhere."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _ended(process: subprocess.Popen[bytes], within: float | None = None) -> None:
    """Wait until a process has ended, at most `within` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while process.poll() is None:  # noqa: ASYNC110  (another process can only be polled)
                await asyncio.sleep(POLL_S)


def _status(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"by {signal.Signals(-returncode).name}"
    return f"with status {returncode}"
