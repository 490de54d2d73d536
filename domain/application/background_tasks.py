"""Background tasks of a process: each runs again when it ends with an error, and is known while it does not run.

A task that ends without a trace is worse than one that fails loudly: read models stop, leases run out, and the process
looks healthy. So every task that is to run as long as its process is started here. Readiness and metrics ask here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from domain.errors import ThreadfoldError

FIRST_PAUSE_S = 1.0
"""Seconds before a task that failed runs again; they double with each failure that follows."""

LONGEST_PAUSE_S = 30.0
"""Seconds before that, at most."""

HEALTHY_S = 60.0
"""Seconds after which a task that runs counts as recovered: the next failure is a first one again."""

_log = logging.getLogger(__name__)


class EndedEarly(ThreadfoldError):
    """It returned, although nothing had asked it to end."""


class TaskStatus(Struct, frozen=True):
    """How a background task is."""

    name: str
    up: bool
    """Whether it runs. A task that failed is up again as soon as it runs, after a second failure in a row only once it
    has run as long as it had paused."""
    restarts: int
    last_error: str | None
    ailing: str | None
    """What does not work in it, by its own account."""


class BackgroundTask:
    """A coroutine function that runs until it is stopped. Made by `BackgroundTasks.start`."""

    def __init__(
        self,
        name: str,
        run: Callable[[], Awaitable[object]],
        first_pause: float,
        longest_pause: float,
        was_well: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin to run in the running event loop."""
        self.name = name
        self.ailing: Callable[[], str | None] = lambda: None
        """Says what does not work in it; a task whose work is done elsewhere, such as by a process, sets it."""
        self._run = run
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._was_well = was_well
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._runs = True
        self._pause = 0.0
        self._failures = 0
        self._restarts = 0
        self._last_error: BaseException | None = None
        self._stopping = False
        self._task = asyncio.create_task(self._run_again_and_again(), name=name)

    @property
    def status(self) -> TaskStatus:
        """How it is now."""
        proven = self._failures < 2 or self._loop.time() - self._began_at >= self._pause  # noqa: PLR2004
        error, ailing = self._last_error, self.ailing()
        up = self._runs and proven and ailing is None and not self._task.done()
        said = f"{type(error).__name__}: {error}" if error else None
        return TaskStatus(self.name, up, self._restarts, said, ailing)

    async def stop(self, grace: float = 0.0) -> None:
        """Let it end within `grace` seconds, if it was asked to, and cancel it then. It is not started again."""
        self._stopping = True
        if grace and self._runs:
            await asyncio.wait([self._task], timeout=grace)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run_again_and_again(self) -> None:
        while True:
            self._note(runs=True)
            try:
                await self._run()
                error: BaseException = EndedEarly()
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if self._stopping or (task and task.cancelling()):
                    raise
                error = cancelled  # something that it waited for was cancelled
            except Exception as failure:  # noqa: BLE001  (whatever it is, the task is to run)
                error = failure
            if self._stopping:
                return
            self._note_failure(error)
            await asyncio.sleep(self._pause)
            self._restarts += 1

    def _note(self, *, runs: bool) -> None:
        self._runs, self._began_at = runs, self._loop.time()

    def _note_failure(self, error: BaseException) -> None:
        healthy = self._loop.time() - self._began_at >= HEALTHY_S or self._was_well()
        self._failures = 1 if healthy else self._failures + 1
        self._pause = min(self._first_pause * 2 ** min(self._failures - 1, 30), self._longest_pause)
        self._last_error = error
        self._note(runs=False)
        unforeseen = None if isinstance(error, ThreadfoldError) else error  # then its place is worth knowing
        words = "The background task %s failed: %s. It runs again in %g s"
        _log.error(words, self.name, str(error) or type(error).__name__, self._pause, exc_info=unforeseen)


class BackgroundTasks:
    """The background tasks of a process."""

    def __init__(self) -> None:
        """Begin without any."""
        self._tasks: dict[str, BackgroundTask] = {}

    def start(
        self,
        name: str,
        run: Callable[[], Awaitable[object]],
        *,
        first_pause: float = FIRST_PAUSE_S,
        longest_pause: float = LONGEST_PAUSE_S,
        was_well: Callable[[], bool] = lambda: False,
    ) -> BackgroundTask:
        """Run a coroutine function in the background until the task is stopped.

        `was_well` says after a failure whether the run had been well before: then the pause does not grow.
        """
        task = self._tasks[name] = BackgroundTask(name, run, first_pause, longest_pause, was_well)
        return task

    async def stop(self, *tasks: BackgroundTask, grace: float = 0.0) -> None:
        """Stop tasks, all at the same time, and forget them."""
        await asyncio.gather(*[task.stop(grace) for task in tasks])
        for task in tasks:
            if self._tasks.get(task.name) is task:
                del self._tasks[task.name]

    @asynccontextmanager
    async def running(self, name: str, run: Callable[[], Awaitable[object]]) -> AsyncIterator[BackgroundTask]:
        """Run a coroutine function in the background meanwhile."""
        task = self.start(name, run)
        try:
            yield task
        finally:
            await self.stop(task)

    def statuses(self) -> Sequence[TaskStatus]:
        """Say how each task is, in the order of their names."""
        return [task.status for _, task in sorted(self._tasks.items())]

    def not_running(self) -> Sequence[str]:
        """Name the tasks that do not run; in parentheses, what of a task does not work."""
        down = [status for status in self.statuses() if not status.up]
        return [f"{status.name} ({status.ailing})" if status.ailing else status.name for status in down]
