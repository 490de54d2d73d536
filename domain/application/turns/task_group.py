"""Several parts of a node's work at the same time, none of which is lost because another one failed."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from domain.errors import LeaseLost, TurnIsOver


class NodeTasks:
    """Runs parts of a node's work at the same time.

    With `stop_on_error`, the first error cancels the others, but for those that are `finishing`: they have an outcome,
    and store it. Without, the others run to their end. A turn that is over ends them all.
    """

    def __init__(self, *, stop_on_error: bool = True) -> None:
        """Begin without parts."""
        self._stop_on_error = stop_on_error
        self._stopping = False
        self._finishing: set[asyncio.Task[Any]] = set()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Protect the part that runs: it has an outcome now."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("A part of a node's work runs in a task")
        self._finishing.add(task)
        try:
            yield
        finally:
            self._finishing.discard(task)
            if self._stopping:
                task.cancel()

    async def run(self, parts: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run all parts to their end. Raises the first error, a lost turn before all others."""
        tasks = [asyncio.create_task(part) for part in parts]
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
        """Cancel what is not finishing, once: a task that is cancelled a second time has no time to clean up."""
        if not self._stopping:
            self._stopping = True
            self._cancel(pending - self._finishing)

    def _cancel(self, tasks: set[asyncio.Task[None]]) -> None:
        self._finishing -= tasks
        for task in tasks:
            task.cancel()
