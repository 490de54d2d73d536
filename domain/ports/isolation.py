"""Running a turn where it can harm no other one."""

from typing import Protocol

from domain.ids import ThreadId
from domain.ports.log import Fence


class Isolation(Protocol):
    """Runs turns in processes of their own."""

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: bool) -> bool:
        """Run a thread's turn, under a fence, in a process that runs nothing else, until it has nothing to run.

        `convicted`: the turn is not run, but failed. Returns False if the process crashed, or hung and was killed.
        Cancelling hands the turn over: the process ends within a bounded time.
        """
