"""Which worker runs the turns of which shards."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import Shard, WorkerId


class Lease(Struct, frozen=True):
    """A worker's right to run a shard's turns. Each change of owner raises the epoch."""

    shard: Shard
    epoch: int
    since: datetime
    """When the owner took it, on the store's clock."""


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


class Standing(Struct, frozen=True):
    """What a worker has, and how many workers there are to share with.

    `workers` counts those that are alive and not on standby, with the asker if it is one of them.
    """

    leases: tuple[Lease, ...]
    workers: int


class LeaseStore(Protocol):
    """Who may run which shard's turns. Time is the store's own, so that no two clocks need to agree."""

    async def renew(self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False) -> Standing:
        """Say that a worker is there, and keep its leases, for `ttl` seconds from now.

        A lease that ran out but that nobody else has taken is kept, too.
        """

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Take up to `limit` shards that have no owner, or one whose lease ran out; each gets a new epoch."""

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Give shards back; those that are not the worker's any more are left alone."""

    async def leave(self, worker: WorkerId) -> None:
        """Give everything back: the worker ends."""

    async def workers(self) -> Sequence[WorkerRow]:
        """Return the workers that are alive, the oldest first, with their shards in order."""
