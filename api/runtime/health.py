"""The readiness check, with a time limit that holds even if the check cannot be cancelled."""

import asyncio

from domain.errors import ThreadfoldError
from domain.ids import Position, Slice
from domain.ports.log import EventStore

READINESS_TIMEOUT_S = 2.0
"""Seconds after which a process whose database does not answer counts as unready."""


class Readiness:
    """Reads a record of the log, and writes a row.

    A driver may keep waiting for a frozen server after it was cancelled. So a check that exceeds its time limit keeps
    running, and the next request waits for the same check instead of starting another.
    """

    def __init__(self, store: EventStore, limit: float = READINESS_TIMEOUT_S) -> None:
        """`limit` is in seconds."""
        self._store = store
        self._limit = limit
        self._checking: asyncio.Task[None] | None = None

    async def trouble(self) -> str | None:
        """Return why the log cannot be read or written; None if it can."""
        checking = self._checking
        if checking is None or checking.done():
            checking = self._checking = asyncio.create_task(self._check(), name="readiness")
            checking.add_done_callback(_retrieve_exception)
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
        await self._store.check_writable()

    def close(self) -> None:
        """Cancel a running check."""
        if self._checking is not None:
            self._checking.cancel()


def _retrieve_exception(checking: asyncio.Task[None]) -> None:
    """Retrieve the exception, since asyncio logs one that no request retrieves."""
    if not checking.cancelled():
        checking.exception()
