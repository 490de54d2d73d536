"""Where an answer is held until the log has it."""

from typing import Protocol

from domain.ids import ThreadId
from domain.ports.log import Append

HOT_TIMEOUT_S = 2.0
"""Seconds that such a store is waited for. After that the log decides what was answered, and nothing is held."""


class HotStore(Protocol):
    """Holds what was answered and is not stored yet, outside of the process that answered.

    At most one append for each thread. It may lose everything: then an answer is lost that the log does not have.
    """

    async def put(self, append: Append) -> None:
        """Hold an append. Raises `StoreUnavailable`: then nothing may be answered before it is stored."""

    async def get(self, thread_id: ThreadId) -> Append | None:
        """Return what is held of a thread, or None. Raises `StoreUnavailable`."""

    async def drop(self, thread_id: ThreadId) -> None:
        """Let go of what is stored by now. Never fails."""
