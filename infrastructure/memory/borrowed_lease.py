"""The lease of another worker, for an isolated process that runs one of its turns."""

# ruff: noqa: ARG002  (the ports have arguments that are not needed here)

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from domain.ids import SHARDS, Shard, ThreadId, WorkerId
from domain.ports.leases import Lease, WorkerRow, WorkerShare
from domain.ports.loans import Loan
from domain.ports.log import Fence
from domain.ports.suspects import Suspect

_SINCE = datetime.min.replace(tzinfo=UTC)


class BorrowedLease:
    """A `LeaseStore` with one lease, and empty `Suspects` and `Loans`.

    The lease counts as held for ever: its owner ends this process after losing it, and the log refuses appends under
    an old epoch.
    """

    def __init__(self, fence: Fence) -> None:
        self._lease = Lease(fence.shard, fence.epoch, _SINCE)

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        """Return the lease, and as many workers as there are shards, so that this one gives none away."""
        return WorkerShare((self._lease,), SHARDS)

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        return []

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Do nothing: the lease is its owner's."""

    async def leave(self, worker: WorkerId) -> None:
        """Do nothing, as above."""

    async def workers(self) -> Sequence[WorkerRow]:
        """Return no other worker, so that the thread is not lent."""
        return []

    async def of(self, shards: Collection[Shard], threads: Collection[ThreadId] = ()) -> Mapping[ThreadId, Suspect]:
        """Return no suspect: the turn must run here."""
        return {}

    async def crashed_alone(self, thread_id: ThreadId) -> Suspect:
        """Count nothing: the owner does."""
        return Suspect()

    async def cleared(self, thread_id: ThreadId) -> None:
        """Do nothing: the owner does it."""

    async def lent_from(self, shards: Collection[Shard]) -> Collection[ThreadId]:
        return []

    async def lend(self, loan: Loan) -> None:
        """Do nothing: no turn is lent from here."""

    async def lent_to(self, worker: WorkerId) -> Sequence[Loan]:
        return []

    async def give_back(self, worker: WorkerId, thread_id: ThreadId) -> None:
        """Do nothing, as above."""
