"""Turns that the owner of a shard lends to another worker, because it does not know their agent."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from domain.ids import Shard, Tenant, ThreadId, WorkerId
from domain.ports.log import Fence


class Loan(Struct, frozen=True):
    """A thread whose turns another worker runs, with the fencing token of the shard's owner. It ends with that epoch.

    `runnable` says whether the thread has something to run.
    """

    thread_id: ThreadId
    tenant: Tenant
    fence: Fence
    worker: WorkerId
    runnable: bool = True


class Loans(Protocol):
    """The loans of all workers."""

    async def lend(self, loan: Loan) -> None:
        """Lend a thread. Replaces a loan to another worker.

        If that other worker has died without leaving, a crash is counted for the thread.
        """

    async def lent_to(self, worker: WorkerId) -> Sequence[Loan]:
        """Return the loans to a worker."""

    async def lent_from(self, shards: Collection[Shard]) -> Collection[ThreadId]:
        """Return the threads of some shards that are lent."""

    async def give_back(self, worker: WorkerId, thread_id: ThreadId) -> None:
        """End a loan to this worker, unless the thread has something to run."""
