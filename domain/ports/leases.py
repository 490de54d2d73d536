"""Which worker runs the turns of which shards."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import Position, Shard, WorkerId


class Lease(Struct, frozen=True):
    """A worker's right to run a shard's turns. Each change of owner raises the epoch.

    `heads` are the last positions of the shard's slices when the owner took it: what has a later position happened
    under this lease. They are empty where the store was not asked for them.
    """

    shard: Shard
    epoch: int
    since: datetime
    """When the owner took it, on the store's clock."""
    heads: tuple[Position, ...] = ()


class WorkerRow(Struct, frozen=True):
    """A worker that is there. Instants are on the store's clock."""

    id: WorkerId
    name: str
    """Where it runs: `host:pid`."""
    started_at: datetime
    seen_at: datetime
    standby: bool
    """It takes shards only while there is no worker that is not on standby."""
    shards: tuple[Shard, ...]
    agents: tuple[str, ...] = ()
    """The agents whose turns it can run."""


class WorkerShare(Struct, frozen=True):
    """What a worker has, and how many workers there are to share with.

    `workers` counts those that are alive and not on standby, with the asker if it is one of them.
    """

    leases: tuple[Lease, ...]
    workers: int


class LeaseStore(Protocol):
    """Who may run which shard's turns. Time is the store's own, so that no two clocks need to agree."""

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        """Say that a worker is there, and which agents it knows; keep its leases for `ttl` seconds from now.

        A lease that ran out is kept, too, if no other worker has taken it. The leases come without `heads`.
        """

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Take up to `limit` shards that have no owner, or one whose lease ran out; each gets a new epoch.

        Where the lease ran out, its owner did not give it back: it crashed, or hangs. Each turn that could run in the
        shard then has one more crash to its name; see `domain.ports.suspects`. Loans under older epochs end.
        """

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Give shards back; those that are not the worker's any more are left alone."""

    async def leave(self, worker: WorkerId) -> None:
        """Give everything back: the worker ends."""

    async def workers(self) -> Sequence[WorkerRow]:
        """Return the workers that are alive, the oldest first, with their shards in order."""
