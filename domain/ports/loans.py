"""Turns that the owner of a shard lends to another worker, because it does not know their agent."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from domain.ids import Shard, Tenant, ThreadId, WorkerId
from domain.ports.log import Fence


class Loan(Struct, frozen=True):
    """A thread whose turns another worker runs, under the fence of the shard's owner: the loan ends with that epoch.

    `runnable` says whether there is something to run.
    """

    thread_id: ThreadId
    tenant: Tenant
    fence: Fence
    worker: WorkerId
    runnable: bool = True


class Loans(Protocol):
    """Which threads are lent to which worker."""

    async def lend(self, loan: Loan) -> None:
        """Lend a thread, to another worker than before if need be.

        If the worker before has died without leaving, the thread has one more crash to its name.
        """

    async def lent_to(self, worker: WorkerId) -> Sequence[Loan]:
        """Return what is lent to a worker now."""

    async def lent_from(self, shards: Collection[Shard]) -> Collection[ThreadId]:
        """Return the threads of some shards that are lent now."""

    async def give_back(self, worker: WorkerId, thread_id: ThreadId) -> None:
        """End a loan to this worker, unless the thread has something to run again."""
