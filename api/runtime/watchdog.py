"""A thread that watches the event loop: it logs what blocks the loop, and ends a process that does not stop.

The event loop handles signals. If user code blocks it, the process ignores SIGTERM, renews no lease and answers no
request. The thread notices, as long as the blocking code releases Python's global interpreter lock from time to time.
If it does not, the parent has to kill the process.
"""

import asyncio
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import NoReturn

STOP_LIMIT_S = 20.0
"""Seconds that a process has to stop: 3 for requests, 5 for turns, 2 for read models, the rest for the database."""

HURRY_S = 1.0
"""Seconds that a process has to stop after a second request."""

ONE_REQUEST_S = 0.1
"""Signals within so many seconds are one request: a terminal and a wrapper program may both send one."""

LEAVE_LIMIT_S = 5.0
"""Seconds from the end of a process's work to its exit, for running threads of user code."""

UNCLEAN = 70
"""The exit status of a process that could not stop cleanly."""

MAX_FRAMES = 40
"""The innermost frames of a stack that are logged."""

LAST_LOG_S = 1.0
"""Seconds that logging may take before the exit: the log's reader may be what blocks."""

_log = logging.getLogger(__name__)


class Silence:
    """Measures for how long no heartbeat came, counting only time in which the listener itself ran.

    The listener checks about every `interval` seconds. If a check is late, the listener itself was paused, perhaps with
    the whole machine: then at most two intervals count.
    """

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._looked_at = now
        self.seconds = 0.0

    def heard(self) -> None:
        """Begin to count from zero."""
        self.seconds = 0.0

    def look(self, now: float) -> float:
        """Return the seconds without a heartbeat."""
        self.seconds += min(now - self._looked_at, 2 * self._interval)
        self._looked_at = now
        return self.seconds


class Watchdog:
    """Watches the event loop of the main thread from another thread."""

    def __init__(self, blocked_after: float, stop_within: float = STOP_LIMIT_S, lifeline: int | None = None) -> None:
        """Start nothing yet. `lifeline` is a socket whose other end is the parent's: when that end closes, stop."""
        self._blocked_after = blocked_after
        self._stop_within = stop_within
        self._lifeline = lifeline
        self._tick = min(max(blocked_after / 5, 0.1), 1.0)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loops_descriptor = -1
        self._signals = (-1, -1)
        self._watching = False
        self._answered = True
        self._silence = Silence(self._tick, time.monotonic())
        self._report_at = blocked_after
        self._asked_at: float | None = None
        self._deadline: float | None = None
        self._status = UNCLEAN
        self._speaker: threading.Thread | None = None

    def start(self) -> None:
        """Start watching. Call this in the event loop, in the main thread.

        The interpreter writes the number of each signal to a descriptor, even while the main thread is blocked in C
        code. It is set to ours, and the watchdog passes each number on to the loop's.
        """
        self._loop = asyncio.get_running_loop()
        self._signals = os.pipe()
        for descriptor in self._signals:
            os.set_blocking(descriptor, False)
        self._loops_descriptor = signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def watch_loop(self) -> None:
        """Begin to log what blocks the loop. Before, imports may block it."""
        self._silence.heard()
        self._watching = True

    def leave(self, status: int) -> None:
        """Give the loop its signals back. Exit with `status` if the process does not exit within `LEAVE_LIMIT_S`."""
        with self._lock:
            if self._loops_descriptor >= 0:
                signal.set_wakeup_fd(self._loops_descriptor, warn_on_full_buffer=False)
            self._loops_descriptor = -1
        self._status, self._watching = status, False
        self._deadline = time.monotonic() + LEAVE_LIMIT_S

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._signals[0], select.POLLIN)
        while True:
            try:
                poll.poll(1000 * self._rest())
                self._look()
            except Exception:  # noqa: BLE001  (after any error, signals must still be passed on)
                self._say(partial(_log.error, "The watchdog failed, and continues:\n%s", traceback.format_exc()))
                time.sleep(self._tick)

    def _rest(self) -> float:
        """Return the seconds until the next check, unless a signal comes before."""
        left = self._tick if self._deadline is None else self._deadline - time.monotonic()
        return max(min(self._tick, left), 0.01)

    def _look(self) -> None:
        now = time.monotonic()
        with suppress(BlockingIOError):
            self._pass_on(os.read(self._signals[0], 256), now)
        if self._parent_is_gone():
            self._lifeline = None
            self._note_request(now)
        self._look_at_loop(now)
        if self._deadline is not None and now >= self._deadline:
            say_and_exit(self._status, self._say_last_words)

    def _pass_on(self, numbers: bytes, now: float) -> None:
        for number in numbers:
            if number in {signal.SIGINT, signal.SIGTERM}:
                self._note_request(now)
        with self._lock, suppress(OSError):
            if self._loops_descriptor >= 0:
                os.write(self._loops_descriptor, numbers)

    def _note_request(self, now: float) -> None:
        if self._asked_at is None:
            self._asked_at = now
            self._deadline = now + self._stop_within
        elif self._deadline is not None and now - self._asked_at > ONE_REQUEST_S:
            self._deadline = min(self._deadline, now + HURRY_S)

    def _parent_is_gone(self) -> bool:
        if self._lifeline is None:
            return False
        poll = select.poll()
        poll.register(self._lifeline, select.POLLRDHUP)
        return any(events & (select.POLLRDHUP | select.POLLHUP | select.POLLNVAL) for _, events in poll.poll(0))

    def _look_at_loop(self, now: float) -> None:
        silent = self._silence.look(now)
        if self._answered:
            self._silence.heard()
            self._answered = False
            with suppress(RuntimeError):  # the loop is closed
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(self._answer)
            if self._report_at > self._blocked_after:
                self._say(partial(_log.info, "The event loop goes on, after %.1f s", silent))
            self._report_at = self._blocked_after
        elif self._watching and silent >= self._report_at:
            self._report_at *= 2
            words = "The event loop is blocked for %.1f s so far by %s:\n%s"
            self._say(partial(_log.error, words, silent, self._culprit(), _stack()))

    def _say(self, say: Callable[[], None]) -> None:
        """Log in another thread: the log's reader may not read, and the watchdog must not wait for it."""
        if self._speaker is None or not self._speaker.is_alive():
            self._speaker = threading.Thread(target=say, name="watchdog's log", daemon=True)
            with suppress(RuntimeError):  # no more threads can be started
                self._speaker.start()

    def _answer(self) -> None:
        self._answered = True

    def _culprit(self) -> str:
        """Describe what the loop runs now: the task, and the innermost function."""
        task = asyncio.current_task(self._loop)
        frame = _main_frame()
        place = f" in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else ""
        return (f"the task {task.get_name()!r}" if task else "a callback") + place

    def _say_last_words(self) -> None:
        if self._asked_at is None or self._status != UNCLEAN:
            names = [t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
            _log.warning("The process exits without waiting for what still runs: %s", ", ".join(names) or "tasks")
            return
        words = "The process did not stop within %.1f s and exits; it was running %s:\n%s"
        _log.error(words, time.monotonic() - self._asked_at, self._culprit(), _stack())


def say_and_exit(status: int, say: Callable[[], None]) -> NoReturn:
    """Log something, within `LAST_LOG_S`, and exit at once: no clean-up runs."""

    def last_words() -> None:
        say()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()

    speaker = threading.Thread(target=last_words, daemon=True)
    with suppress(RuntimeError):  # no more threads can be started
        speaker.start()
        speaker.join(LAST_LOG_S)
    os._exit(status)


def _main_frame() -> FrameType | None:
    identity = threading.main_thread().ident
    return sys._current_frames().get(identity) if identity is not None else None  # noqa: SLF001  (there is no other way)


def _stack() -> str:
    frame = _main_frame()
    return "".join(traceback.format_stack(frame)[-MAX_FRAMES:]).rstrip() if frame else "(no stack)"
