"""Whether the log can be read: asked with a time limit that holds even if the asking cannot be cancelled."""

import asyncio
from collections.abc import Sequence

from domain.chain import Record
from domain.ids import Position, Slice
from domain.ports.log import EventStore

DATABASE_LIMIT = 2.0
"""Seconds that the database may take to answer before the process counts as unready."""


class Readiness:
    """Asks the log for a record.

    A driver may go on waiting for a frozen server when it is cancelled. So the read is left alone when its time is
    over, and the next question joins it instead of adding another one.
    """

    def __init__(self, store: EventStore, limit: float = DATABASE_LIMIT) -> None:
        """Take the store to ask, and how many seconds it may take."""
        self._store = store
        self._limit = limit
        self._reading: asyncio.Task[Sequence[Record]] | None = None

    async def trouble(self) -> str | None:
        """Say what keeps the log from being read; None if nothing does."""
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.create_task(self._store.read_slice(Slice(0), Position(0), 1))
            reading.add_done_callback(_look)
        done, _ = await asyncio.wait({reading}, timeout=self._limit)
        if not done:
            return f"no answer within {self._limit:g} seconds"
        if reading.cancelled():
            return "the read was cancelled"
        error = reading.exception()
        return type(error).__name__ if error else None

    def close(self) -> None:
        """Let a read that is under way go."""
        if self._reading is not None:
            self._reading.cancel()


def _look(reading: asyncio.Task[Sequence[Record]]) -> None:
    """Fetch the outcome, which nobody may be waiting for any more: otherwise asyncio complains."""
    if not reading.cancelled():
        reading.exception()
