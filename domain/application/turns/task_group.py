"""Tasks of one node that run at the same time. Results that are there are stored even if another task fails."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from domain.errors import LeaseLost, TurnIsOver


class NodeTasks:
    """Runs coroutines of a node at the same time.

    With `stop_on_error`, the first error cancels the others, except those that are `finishing`: they have a result and
    are storing it. Without it, the others run to their end. `TurnIsOver` and `LeaseLost` cancel all of them.
    """

    def __init__(self, *, stop_on_error: bool = True) -> None:
        self._stop_on_error = stop_on_error
        self._stopping = False
        self._finishing: set[asyncio.Task[Any]] = set()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Protect the current task from cancellation by the others' errors: it has a result and is storing it."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("finishing() is called outside of a task")
        self._finishing.add(task)
        try:
            yield
        finally:
            self._finishing.discard(task)
            if self._stopping:
                task.cancel()

    async def run(self, coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run all coroutines to their end. Raises `TurnIsOver` or `LeaseLost` if there is one, else the first error."""
        tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
        pending: set[asyncio.Task[None]] = set(tasks)
        failed: list[BaseException] = []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
                failed += [error for task in done if not task.cancelled() and (error := task.exception())]
                lost = any(isinstance(error, TurnIsOver | LeaseLost) for error in failed)
                if lost:
                    self._cancel(self._finishing & pending)
                if lost or (failed and self._stop_on_error):
                    self._stop(pending)
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*pending, return_exceptions=True)
            raise
        failed.sort(key=lambda error: not isinstance(error, TurnIsOver | LeaseLost))
        if failed:
            raise failed[0]

    def _stop(self, pending: set[asyncio.Task[None]]) -> None:
        """Cancel the tasks that are not finishing, only once: a second cancellation would interrupt their clean-up."""
        if not self._stopping:
            self._stopping = True
            self._cancel(pending - self._finishing)

    def _cancel(self, tasks: set[asyncio.Task[None]]) -> None:
        self._finishing -= tasks
        for task in tasks:
            task.cancel()
