"""A long-running process of Threadfold: its event loop, signals, watchdog and guaranteed exit."""

import asyncio
import ctypes
import faulthandler
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import uvloop

from api.runtime.watchdog import STOP_LIMIT_S, UNCLEAN, Watchdog, say_and_exit

MAX_BLOCKED_S = 5.0
"""Seconds after which a blocked event loop is logged; with a short lease, after half of the lease."""

PR_SET_PDEATHSIG = 1
"""The option's number for Linux' `prctl`."""

STACK_SIGNAL = signal.SIGUSR1
"""Makes a process write the stacks of all threads to stderr, even if its interpreter is blocked."""

STARTING, READY, ENDING = "s", "r", "e"
"""The first character of a heartbeat's line; what does not work in the process follows. ENDING is sent when the loop's
work is over: the process only exits then, which may take longer on a busy machine than a loop may be silent."""

_log = logging.getLogger(__name__)


class Process:
    """This process, as its main coroutine sees it."""

    def __init__(self, lease: float, stop_within: float = STOP_LIMIT_S, lifeline: int | None = None) -> None:
        """Start nothing yet. `lease` is in seconds; `lifeline` is the descriptor of a socket to the parent."""
        self._lifeline = None if lifeline is None else socket.socket(fileno=lifeline)
        if self._lifeline is not None:
            self._lifeline.settimeout(0)
            self._lifeline.set_inheritable(False)  # a process started by user code must not inherit it
        self._is_ready = False
        self._heartbeat_interval = min(1.0, lease / 10)
        self._watchdog = Watchdog(max(min(lease / 2, MAX_BLOCKED_S), 0.5), stop_within, lifeline)

    @property
    def has_parent(self) -> bool:
        """Whether a parent process of Threadfold started this one and supervises it."""
        return self._lifeline is not None

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` at each SIGINT and SIGTERM, and when the parent is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._look_for_parent, stop)

    def begin(self, ailing: Callable[[], str | None] = lambda: None) -> None:
        """Begin to report a blocked event loop, and to send heartbeats: until now, imports were allowed to block it.

        A heartbeat tells the parent that the loop runs, and what does not work in the process: see `ailing`.
        """
        self._watchdog.watch_loop()
        if self._lifeline is not None:
            self._beat(ailing)

    def ready(self) -> None:
        """Report in the next heartbeat that the process is ready."""
        self._is_ready = True

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the main coroutine in a new event loop.

        If the loop ends before the coroutine, for example by a `SystemExit` in a callback, the process exits at once:
        clean-up needs a loop, and the coroutine would wait for ever.
        """
        over = False

        async def whole() -> None:
            nonlocal over
            self._watchdog.start()
            status = UNCLEAN
            try:
                await main()
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else UNCLEAN
                raise
            finally:
                over = True
                self._watchdog.leave(status)
                self._send(ENDING)

        _enable_stack_dumps(on_signal=self.has_parent)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(whole())
            except BaseException as error:
                if over:
                    raise
                words = (
                    "The event loop has ended while the process was at work, by %r. The process exits with status %d"
                )
                say_and_exit(UNCLEAN, partial(_log.critical, words, error, UNCLEAN, exc_info=error))

    def _beat(self, ailing: Callable[[], str | None]) -> None:
        words = (READY if self._is_ready else STARTING) + " ".join((ailing() or "").split())[:1_000]
        self._send(words)
        asyncio.get_running_loop().call_later(self._heartbeat_interval, self._beat, ailing)

    def _send(self, words: str) -> None:
        with suppress(OSError):  # the parent does not read now, or is gone, which `on_stop` handles
            if self._lifeline is not None:
                self._lifeline.send(f"{words}\n".encode())

    def _look_for_parent(self, stop: Callable[[], None]) -> None:
        if self._lifeline is None:
            return
        with suppress(BlockingIOError):
            try:
                parent_is_there = bool(self._lifeline.recv(4_096))
            except ConnectionError:
                parent_is_there = False
            if not parent_is_there:
                asyncio.get_running_loop().remove_reader(self._lifeline)
                stop()


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent dies, even if its interpreter is blocked; on Linux only.

    For an isolated process: its parent's death ends the lease that it works under, so it has nothing to save.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _enable_stack_dumps(*, on_signal: bool) -> None:
    """Write stacks to stderr at a crash of the interpreter, and at `STACK_SIGNAL` if wanted."""
    with suppress(OSError, ValueError, AttributeError, RuntimeError):  # there is no stderr
        faulthandler.enable()
        if on_signal:
            faulthandler.register(STACK_SIGNAL, all_threads=True)
    if on_signal and sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed process loses no lines
