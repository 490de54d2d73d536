"""What every process of Threadfold that runs for long has: an event loop, signals, a watchdog, and a sure end."""

import asyncio
import ctypes
import faulthandler
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import uvloop

from api.runtime.watchdog import STOP_LIMIT_S, UNCLEAN, Watchdog, say_and_exit

BLOCKED_S = 5.0
"""Seconds after which a blocked event loop is logged, at most; with a short lease it is half of that."""

PR_SET_PDEATHSIG = 1
"""Linux's number for the option of `prctl`."""

STACK_SIGNAL = signal.SIGUSR1
"""Makes a process write the stacks of all its threads to stderr, even one whose interpreter is blocked."""

STARTING, READY, ENDING = "s", "r", "e"
"""What the line of a heartbeat begins with; what is ailing in the process follows. The last one is sent when the loop's
work is over: from then on the process only ends, for which a busy machine may need longer than a loop may be silent."""

_log = logging.getLogger(__name__)


class Process:
    """This process, as its main coroutine sees it."""

    def __init__(self, lease: float, stop_within: float = STOP_LIMIT_S, lifeline: int | None = None) -> None:
        """Start nothing yet. `lease` is in seconds; `lifeline` is the descriptor of a socket to the parent."""
        self._lifeline = None if lifeline is None else socket.socket(fileno=lifeline)
        if self._lifeline is not None:
            self._lifeline.settimeout(0)
            self._lifeline.set_inheritable(False)  # a process that user code starts must not outlive us as our parent's
        self._is_ready = False
        self._heartbeat_interval = heartbeat_interval(lease)
        self._watchdog = Watchdog(max(min(lease / 2, BLOCKED_S), 0.5), stop_within, lifeline)

    @property
    def has_parent(self) -> bool:
        """Whether another process of Threadfold has started this one, and looks after it."""
        return self._lifeline is not None

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Call `stop` when a signal asks for the end, each time one does, and when the parent is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._look_for_parent, stop)

    def begin(self, ailing: Callable[[], str | None] = lambda: None) -> None:
        """Say that user code may run in the loop from now on, and no longer block it, as imports do.

        The parent hears that the loop turns, and what is `ailing` in the process.
        """
        self._watchdog.watch_loop()
        if self._lifeline is not None:
            self._beat(ailing)

    def ready(self) -> None:
        """Say that the start is over."""
        self._is_ready = True

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the main coroutine in an event loop of its own.

        If the loop ends while the coroutine has not, such as by a `SystemExit` in a callback, the process exits at
        once: to clean up takes a loop, and the coroutine would wait for ever for what will not happen.
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

        _prepare_for_the_worst(stacks=self.has_parent)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(whole())
            except BaseException as error:
                if over:
                    raise
                reason = error  # the name ends with this block
                say_and_exit(UNCLEAN, lambda: _say_loop_ended(reason))

    def _beat(self, ailing: Callable[[], str | None]) -> None:
        words = (READY if self._is_ready else STARTING) + " ".join((ailing() or "").split())[:1_000]
        self._send(words)
        asyncio.get_running_loop().call_later(self._heartbeat_interval, self._beat, ailing)

    def _send(self, words: str) -> None:
        with suppress(OSError):  # the parent does not read just now, or is gone: `on_stop` hears of that
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
    """Have the kernel kill this process when its parent dies, whatever holds the interpreter by then; on Linux only.

    For a process that runs one turn: its parent's death ends the lease that it works under, so it has nothing to save.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def heartbeat_interval(lease: float) -> float:
    """Return the seconds between two heartbeats of a process."""
    return min(1.0, lease / 10)


def _prepare_for_the_worst(*, stacks: bool) -> None:
    """Have stacks written to stderr where Python cannot do anything any more."""
    with suppress(OSError, ValueError, AttributeError, RuntimeError):  # there is no stderr
        faulthandler.enable()
        if stacks:
            faulthandler.register(STACK_SIGNAL, all_threads=True)
    if stacks and sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed process loses no lines


def _say_loop_ended(error: BaseException) -> None:
    words = "The event loop has ended while the process was at work, by %r. It exits with status %d"
    _log.critical(words, error, UNCLEAN, exc_info=error)
