"""Which worker runs the turns of which shards."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from domain.ids import Position, Shard, WorkerId


class Lease(Struct, frozen=True):
    """A worker's right to run a shard's turns. Each change of owner raises the epoch, a fencing token.

    `heads` are the last positions of the shard's slices when the owner claimed it: later positions were stored under
    this lease. Empty where they were not read.
    """

    shard: Shard
    epoch: int
    since: datetime
    """When the owner claimed it, by the store's clock."""
    heads: tuple[Position, ...] = ()


class WorkerRow(Struct, frozen=True):
    """A live worker. Instants are by the store's clock."""

    id: WorkerId
    name: str
    """Where it runs: `host:pid`."""
    started_at: datetime
    seen_at: datetime
    standby: bool
    """It claims shards only while no other worker is alive, except on standby."""
    shards: tuple[Shard, ...]
    agents: tuple[str, ...] = ()
    """The agents whose turns it can run."""


class WorkerShare(Struct, frozen=True):
    """A worker's leases, and the number of workers that share all shards.

    `workers` counts the live ones that are not on standby, including the caller if it is one of them.
    """

    leases: tuple[Lease, ...]
    workers: int


class LeaseStore(Protocol):
    """Leases of shards. Expiry is by the store's clock, so that the workers' clocks need not agree."""

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        """Register a worker as alive, with the agents that it knows, and renew its leases for `ttl` seconds from now.

        An expired lease is renewed too, if no other worker has claimed it. The leases are returned without `heads`.
        """

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Claim up to `limit` shards without an owner, or with an expired lease. Each gets a new epoch.

        The owner of an expired lease has crashed or hangs: otherwise it would have released it. So a crash is counted
        for each turn of the shard that could run; see `domain.ports.suspects`. Loans with older epochs end.
        """

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Release shards. Those that the worker does not own any more are ignored."""

    async def leave(self, worker: WorkerId) -> None:
        """Unregister a worker that ends, and release all its shards."""

    async def workers(self) -> Sequence[WorkerRow]:
        """Return the live workers, the oldest first, with their shards in order."""
