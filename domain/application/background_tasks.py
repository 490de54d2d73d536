"""Background tasks of a process. A task that fails is restarted; readiness and metrics show the tasks that do not run.

Without that, a task that ends silently would stop read models or let leases expire while the process looks healthy. So
every task that has to run as long as its process is started here.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec import Struct

from domain.errors import ThreadfoldError

FIRST_PAUSE_S = 1.0
"""Seconds before a failed task is restarted; they double with each further failure."""

MAX_PAUSE_S = 30.0
"""Seconds before a restart, at most."""

HEALTHY_S = 60.0
"""Seconds after which a running task counts as recovered: its next failure is a first one again."""

_log = logging.getLogger(__name__)


class EndedEarly(ThreadfoldError):
    """The task returned, although it has to run as long as its process."""


class TaskStatus(Struct, frozen=True):
    """The status of a background task."""

    name: str
    up: bool
    """Whether it runs. After one failure, a task is up as soon as it runs again. After two or more in a row, only once
    it has run as long as it had paused."""
    restarts: int
    last_error: str | None
    ailing: str | None
    """What the task itself reports as not working; None if nothing."""


@dataclass(eq=False)
class BackgroundTask:
    """A coroutine function that runs until it is stopped. Made by `BackgroundTasks.start`."""

    name: str
    run: Callable[[], Awaitable[object]]
    first_pause: float
    longest_pause: float
    was_well: Callable[[], bool]
    ailing: Callable[[], str | None] = lambda: None
    """Returns what does not work. Set by a task whose work is done elsewhere, such as by another process."""
    _pause: float = 0.0
    _failures: int = 0
    _restarts: int = 0
    _last_error: BaseException | None = None
    _stopping: bool = False

    def __post_init__(self) -> None:
        """Start the task in the running event loop."""
        self._now = asyncio.get_running_loop().time
        self._note(runs=True)
        self._task = asyncio.create_task(self._run_forever(), name=self.name)

    @property
    def status(self) -> TaskStatus:
        """The current status."""
        proven = self._failures < 2 or self._now() - self._began_at >= self._pause  # noqa: PLR2004
        error, ailing = self._last_error, self.ailing()
        up = self._runs and proven and ailing is None and not self._task.done()
        said = f"{type(error).__name__}: {error}" if error else None
        return TaskStatus(self.name, up, self._restarts, said, ailing)

    async def stop(self, grace: float = 0.0) -> None:
        """Stop it for good: wait `grace` seconds for a task that ends by itself, then cancel it."""
        self._stopping = True
        if grace and self._runs:
            await asyncio.wait([self._task], timeout=grace)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run_forever(self) -> None:
        while True:
            self._note(runs=True)
            try:
                await self.run()
                error: BaseException = EndedEarly()
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if self._stopping or (task and task.cancelling()):
                    raise
                error = cancelled  # not this task, but something that it waited for was cancelled
            except Exception as failure:  # noqa: BLE001  (whatever it is, the task has to run)
                error = failure
            if self._stopping:
                return
            self._note_failure(error)
            await asyncio.sleep(self._pause)
            self._restarts += 1

    def _note(self, *, runs: bool) -> None:
        self._runs, self._began_at = runs, self._now()

    def _note_failure(self, error: BaseException) -> None:
        healthy = self._now() - self._began_at >= HEALTHY_S or self.was_well()
        self._failures = 1 if healthy else self._failures + 1
        self._pause = min(self.first_pause * 2 ** min(self._failures - 1, 30), self.longest_pause)
        self._last_error = error
        self._note(runs=False)
        unexpected = None if isinstance(error, ThreadfoldError) else error  # then the log needs the traceback
        message = "The background task %s failed: %s. It runs again in %g s"
        said = (str(error) or type(error).__name__).removesuffix(".")
        _log.error(message, self.name, said, self._pause, exc_info=unexpected)


class BackgroundTasks:
    """The background tasks of a process."""

    def __init__(self) -> None:
        """Create an empty set of tasks."""
        self._tasks: dict[str, BackgroundTask] = {}

    def start(
        self,
        name: str,
        run: Callable[[], Awaitable[object]],
        *,
        first_pause: float = FIRST_PAUSE_S,
        longest_pause: float = MAX_PAUSE_S,
        was_well: Callable[[], bool] = lambda: False,
    ) -> BackgroundTask:
        """Run a coroutine function in the background until the task is stopped.

        `was_well` says, after a failure, whether the task had worked before: then the pause does not grow.
        """
        task = self._tasks[name] = BackgroundTask(name, run, first_pause, longest_pause, was_well)
        return task

    async def stop(self, *tasks: BackgroundTask, grace: float = 0.0) -> None:
        """Stop tasks concurrently, and drop them from the statuses."""
        await asyncio.gather(*[task.stop(grace) for task in tasks])
        for task in tasks:
            if self._tasks.get(task.name) is task:
                del self._tasks[task.name]

    @asynccontextmanager
    async def running(self, name: str, run: Callable[[], Awaitable[object]]) -> AsyncIterator[BackgroundTask]:
        """Run a coroutine function in the background while the block runs."""
        task = self.start(name, run)
        try:
            yield task
        finally:
            await self.stop(task)

    def statuses(self) -> Sequence[TaskStatus]:
        """Return the status of each task, ordered by name."""
        return [task.status for _, task in sorted(self._tasks.items())]

    def not_running(self) -> Sequence[str]:
        """Return the names of tasks that do not run, with what a task reports as not working in parentheses."""
        down = [status for status in self.statuses() if not status.up]
        return [f"{status.name} ({status.ailing})" if status.ailing else status.name for status in down]
