"""A store outside of the process, for answers that the log does not have yet."""

from typing import Protocol

from domain.ids import ThreadId
from domain.ports.log import Append

HOT_TIMEOUT_S = 2.0
"""Seconds to wait for this store. After that, the log alone decides, and nothing is held."""


class HotStore(Protocol):
    """Holds appends whose answers clients may already have, at most one for each thread.

    It may lose them. Then an answer is lost that the log does not have.
    """

    async def put(self, append: Append) -> None:
        """Hold an append. Raises `StoreUnavailable`: then no client may get the answer before it is stored."""

    async def get(self, thread_id: ThreadId) -> Append | None:
        """Return the append that is held for a thread, or None. Raises `StoreUnavailable`."""

    async def drop(self, thread_id: ThreadId) -> None:
        """Drop a thread's append: the log has it. Never fails."""
