"""Running a turn where it cannot harm others."""

from typing import Protocol

from domain.ids import ThreadId, Version
from domain.ports.log import Fence


class Isolation(Protocol):
    """Runs turns in processes of their own."""

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        """Run a thread's turn in a process of its own until it has nothing to run.

        A turn that began at the version `convicted` or before is failed and not run. Returns False if the process
        crashed, or hung and was killed. If this is cancelled, the turn is handed over: the process ends within a
        bounded time.
        """
