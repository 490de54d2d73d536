"""Whether the log can be read and written: asked with a time limit that holds even if that cannot be cancelled."""

import asyncio
from collections.abc import Awaitable, Callable

from domain.errors import ThreadfoldError
from domain.ids import Position, Slice
from domain.ports.log import EventStore

DATABASE_LIMIT = 2.0
"""Seconds that the database may take to answer before the process counts as unready."""


class Readiness:
    """Asks the log for a record, and has something written.

    A driver may go on waiting for a frozen server when it is cancelled. So the check is left alone when its time is
    over, and the next question joins it instead of adding another one.
    """

    def __init__(
        self,
        store: EventStore,
        limit: float = DATABASE_LIMIT,
        write: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`limit` is in seconds; `write` writes something."""
        self._store = store
        self._limit = limit
        self._write = write
        self._checking: asyncio.Task[None] | None = None

    async def trouble(self) -> str | None:
        """Say what keeps the log from being read or written; None if nothing does."""
        checking = self._checking
        if checking is None or checking.done():
            checking = self._checking = asyncio.create_task(self._check(), name="readiness")
            checking.add_done_callback(_look)
        done, _ = await asyncio.wait({checking}, timeout=self._limit)
        if not done:
            return f"no answer within {self._limit:g} seconds"
        if checking.cancelled():
            return "the check was cancelled"
        error = checking.exception()
        if isinstance(error, ThreadfoldError):
            return str(error).partition(". ")[0].rstrip(".")
        return type(error).__name__ if error else None

    async def _check(self) -> None:
        await self._store.read_slice(Slice(0), Position(0), 1)
        if self._write is not None:
            await self._write()

    def close(self) -> None:
        """Let a check that is under way go."""
        if self._checking is not None:
            self._checking.cancel()


def _look(checking: asyncio.Task[None]) -> None:
    """Fetch the outcome, which no request may be waiting for any more: otherwise asyncio complains."""
    if not checking.cancelled():
        checking.exception()
