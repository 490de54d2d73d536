"""Running a turn where it can harm no other one."""

from typing import Protocol

from domain.ids import ThreadId, Version
from domain.ports.log import Fence


class Isolation(Protocol):
    """Runs turns in processes of their own."""

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        """Run a thread's turn, under a fence, in a process that runs nothing else, until it has nothing to run.

        A turn that began at the version `convicted` or before is not run, but failed. Returns False if the process
        crashed, or hung and was killed.
        Cancelling hands the turn over: the process ends within a bounded time.
        """
