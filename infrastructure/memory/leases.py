"""Leases in memory, for the one process that there is, and for tests of several workers in it."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import SHARDS, Shard, WorkerId
from domain.ports.clock import Clock
from domain.ports.leases import Lease, Standing, WorkerRow


class _Held(Struct, frozen=True):
    lease: Lease
    owner: WorkerId
    until: datetime


class _Known(Struct, frozen=True):
    row: WorkerRow
    until: datetime


class MemoryLeaseStore:
    """A `LeaseStore` on a clock. `fence` is told each new epoch: the log refuses appends under older ones."""

    def __init__(self, clock: Clock, fence: Callable[[Shard, int], None] | None = None) -> None:
        """Begin with no worker."""
        self._clock = clock
        self._fence = fence
        self._epochs = dict.fromkeys((Shard(number) for number in range(SHARDS)), 0)
        self._held: dict[Shard, _Held] = {}
        self._workers: dict[WorkerId, _Known] = {}

    async def renew(self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False) -> Standing:
        """Keep a worker and its leases."""
        now = self._clock.now()
        until = now + timedelta(seconds=ttl)
        started_at = self._workers[worker].row.started_at if worker in self._workers else now
        self._workers[worker] = _Known(WorkerRow(worker, name, started_at, now, standby, ()), until)
        for shard, held in self._held.items():
            if held.owner == worker:
                self._held[shard] = replace(held, until=until)
        return Standing(tuple(self._leases_of(worker)), sum(not row.standby for row in self._alive()))

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        """Take what is free."""
        now = self._clock.now()
        free = [shard for shard in self._epochs if shard not in self._held or self._held[shard].until <= now]
        claimed = []
        for shard in free[: max(limit, 0)]:
            self._epochs[shard] += 1
            lease = Lease(shard, self._epochs[shard], now)
            self._held[shard] = _Held(lease, worker, now + timedelta(seconds=ttl))
            if self._fence:
                self._fence(shard, lease.epoch)
            claimed.append(lease)
        return claimed

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        """Free what the worker still has of these."""
        for shard in shards:
            if shard in self._held and self._held[shard].owner == worker:
                del self._held[shard]

    async def leave(self, worker: WorkerId) -> None:
        """Free everything, and forget the worker."""
        await self.release(worker, list(self._held))
        self._workers.pop(worker, None)

    async def workers(self) -> Sequence[WorkerRow]:
        """List who is alive."""
        now = self._clock.now()
        return [
            replace(
                row,
                shards=tuple(lease.shard for lease in self._leases_of(row.id) if self._held[lease.shard].until > now),
            )
            for row in sorted(self._alive(), key=lambda row: (row.started_at, row.id))
        ]

    def _alive(self) -> list[WorkerRow]:
        now = self._clock.now()
        return [known.row for known in self._workers.values() if known.until > now]

    def _leases_of(self, worker: WorkerId) -> list[Lease]:
        return sorted((h.lease for h in self._held.values() if h.owner == worker), key=lambda lease: lease.shard)
