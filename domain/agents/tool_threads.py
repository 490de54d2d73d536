"""Runs the plain functions of tools, each call in a thread of its own, outside of the event loop.

The threads are daemons and not asyncio's executor threads. So a function that never returns blocks neither other users
of the executor nor the end of the process.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias

MAX_THREADS = 64
"""Maximum number of calls in threads at the same time. Further calls wait for one to end, within their timeouts."""

_log = logging.getLogger(__name__)

_Waiter: TypeAlias = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]

_Result: TypeAlias = tuple[Any, BaseException | None]


class ToolThreads:
    """Runs blocking functions, at most `max_threads` at once. Threads are started on demand."""

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        self._free = max_threads
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], Any], name: str) -> Any:
        """Call a function in a thread, with this task's context variables; return its result, or raise its error.

        A thread cannot be stopped from outside: if this is cancelled, the thread goes on, and its result is lost.
        """
        loop = asyncio.get_running_loop()
        await self._acquire(loop)
        done: asyncio.Future[_Result] = loop.create_future()
        context = copy_context()

        def work() -> None:
            result, error = None, None
            try:
                result = context.run(function)
            except BaseException as raised:  # noqa: BLE001  (it is raised where the call is awaited)
                error = raised
            self._release()
            with suppress(RuntimeError):  # the event loop is closed, so no task is waiting
                loop.call_soon_threadsafe(_set_result, done, (result, error))
            if abandoned.is_set():
                _log.warning("The thread of %s, whose call was cancelled, has ended now", name)

        abandoned = threading.Event()
        thread = threading.Thread(target=work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._release()
            raise
        try:
            result, error = await done
        except asyncio.CancelledError:
            abandoned.set()
            if thread.is_alive():
                _log.error("%s is a plain function, which cannot be cancelled: it is still running in its thread", name)
            raise
        if error is not None:
            raise error
        return result

    async def _acquire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until another thread may run."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            freed: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, freed))
        _log.warning("All %d threads for plain functions of tools are in use: a call is waiting", MAX_THREADS)
        try:
            await freed
        except asyncio.CancelledError:
            if freed.done() and not freed.cancelled():
                self._release()  # this call had its permit already
            raise

    def _release(self) -> None:
        """Pass a permit on to the next waiting call."""
        with self._lock:
            while self._waiting:
                loop, freed = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(self._hand_over, freed)
                except RuntimeError:  # that loop is closed
                    continue
                return
            self._free += 1

    def _hand_over(self, freed: "asyncio.Future[None]") -> None:
        if freed.done():
            self._release()
        else:
            freed.set_result(None)


def _set_result(done: "asyncio.Future[_Result]", result: _Result) -> None:
    if not done.done():
        done.set_result(result)


THREADS = ToolThreads()
"""The threads of this process."""
