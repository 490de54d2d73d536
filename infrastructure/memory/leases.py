"""Leases, suspects and loans in memory: for a single process, and for tests with several workers in it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import SHARDS, Position, Shard, Slice, ThreadId, WorkerId, shard_of, slice_of, slices_of
from domain.ports.clock import Clock
from domain.ports.leases import Lease, WorkerRow, WorkerShare
from domain.ports.loans import Loan
from domain.ports.suspects import Suspect
from infrastructure.memory.event_store import MemoryEventStore


class _Held(Struct, frozen=True):
    lease: Lease
    owner: WorkerId
    until: datetime


class _Known(Struct, frozen=True):
    row: WorkerRow
    until: datetime


class MemorySuspects:
    """`Suspects` of a log in memory."""

    def __init__(self, log: MemoryEventStore) -> None:
        self._log = log
        self._suspects: dict[ThreadId, Suspect] = {}

    async def of(self, shards: Collection[Shard], threads: Collection[ThreadId] = ()) -> Mapping[ThreadId, Suspect]:
        wanted = {id_ for id_ in self._suspects if id_ in threads or shard_of(slice_of(id_)) in shards}
        over = wanted - set(self._log.in_turn({shard_of(slice_of(id_)) for id_ in wanted}))
        for thread_id in over:
            del self._suspects[thread_id]
        return {thread_id: self._suspects[thread_id] for thread_id in wanted - over}

    async def crashed_alone(self, thread_id: ThreadId) -> Suspect:
        before = self._suspects.get(thread_id, Suspect())
        after = replace(before, alone=before.alone + 1, version=self._log.version_of(thread_id))
        self._suspects[thread_id] = after
        return after

    async def cleared(self, thread_id: ThreadId) -> None:
        self._suspects.pop(thread_id, None)

    def crashed(self, threads: Collection[ThreadId]) -> None:
        """Count a crash of a process that could run these threads' turns."""
        for thread_id in threads:
            before = self._suspects.get(thread_id, Suspect())
            version = self._log.version_of(thread_id)
            self._suspects[thread_id] = replace(before, crashes=before.crashes + 1, version=version)


class MemoryLoans:
    """`Loans` between the workers of a `MemoryLeaseStore`."""

    def __init__(self, leases: "MemoryLeaseStore") -> None:
        self._leases = leases
        self._loans: dict[ThreadId, Loan] = {}

    async def lend(self, loan: Loan) -> None:
        before = self._loans.get(loan.thread_id)
        if before and before.worker != loan.worker and self._leases.has_crashed(before.worker):
            self._leases.suspects.crashed([loan.thread_id])
        self._loans[loan.thread_id] = loan

    async def lent_to(self, worker: WorkerId) -> Sequence[Loan]:
        runnable = set(self._leases.log.in_turn({loan.fence.shard for loan in self._loans.values()}))
        return [
            replace(loan, runnable=loan.thread_id in runnable)
            for loan in self._loans.values()
            if loan.worker == worker and self._leases.epoch_of(loan.fence.shard) == loan.fence.epoch
        ]

    async def lent_from(self, shards: Collection[Shard]) -> Collection[ThreadId]:
        epoch_of = self._leases.epoch_of
        loans = (loan for loan in self._loans.values() if loan.fence.shard in shards)
        return {loan.thread_id for loan in loans if loan.fence.epoch == epoch_of(loan.fence.shard)}

    async def give_back(self, worker: WorkerId, thread_id: ThreadId) -> None:
        loan = self._loans.get(thread_id)
        if loan and loan.worker == worker and thread_id not in self._leases.log.in_turn([loan.fence.shard]):
            del self._loans[thread_id]


class MemoryLeaseStore:
    """A `LeaseStore` by a clock. Its log refuses appends under older epochs."""

    def __init__(self, clock: Clock, log: MemoryEventStore | None = None) -> None:
        self._clock = clock
        self.log = log or MemoryEventStore()
        self.suspects = MemorySuspects(self.log)
        self.loans = MemoryLoans(self)
        self._epochs = dict.fromkeys((Shard(number) for number in range(SHARDS)), 0)
        self._held: dict[Shard, _Held] = {}
        self._workers: dict[WorkerId, _Known] = {}

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        now = self._clock.now()
        until = now + timedelta(seconds=ttl)
        started_at = self._workers[worker].row.started_at if worker in self._workers else now
        self._workers[worker] = _Known(
            WorkerRow(worker, name, started_at, now, standby, (), tuple(sorted(agents))), until
        )
        for shard, held in self._held.items():
            if held.owner == worker:
                self._held[shard] = replace(held, until=until)
        return WorkerShare(tuple(self._leases_of(worker)), sum(not row.standby for row in self._alive()))

    async def claim(self, worker: WorkerId, ttl: float, limit: int) -> Sequence[Lease]:
        now = self._clock.now()
        free = [shard for shard in self._epochs if shard not in self._held or self._held[shard].until <= now]
        claimed = []
        for shard in free[: max(limit, 0)]:
            self._epochs[shard] += 1
            heads = tuple(Position(self.log.head_of(Slice(slice_))) for slice_ in slices_of(shard))
            lease = Lease(shard, self._epochs[shard], now, heads)
            if shard in self._held:
                self.suspects.crashed(self.log.in_turn([shard]))
            self._held[shard] = _Held(lease, worker, now + timedelta(seconds=ttl))
            self.log.fence(shard, lease.epoch)
            claimed.append(lease)
        return claimed

    async def release(self, worker: WorkerId, shards: Collection[Shard]) -> None:
        for shard in shards:
            if shard in self._held and self._held[shard].owner == worker:
                del self._held[shard]

    async def leave(self, worker: WorkerId) -> None:
        await self.release(worker, list(self._held))
        self._workers.pop(worker, None)

    async def workers(self) -> Sequence[WorkerRow]:
        now = self._clock.now()
        return [
            replace(
                row,
                shards=tuple(lease.shard for lease in self._leases_of(row.id) if self._held[lease.shard].until > now),
            )
            for row in sorted(self._alive(), key=lambda row: (row.started_at, row.id))
        ]

    def epoch_of(self, shard: Shard) -> int:
        return self._epochs[shard]

    def has_crashed(self, worker: WorkerId) -> bool:
        """Return whether a worker's lease ran out without the worker leaving."""
        return worker in self._workers and self._workers[worker].until <= self._clock.now()

    def _alive(self) -> list[WorkerRow]:
        now = self._clock.now()
        return [known.row for known in self._workers.values() if known.until > now]

    def _leases_of(self, worker: WorkerId) -> list[Lease]:
        return sorted((h.lease for h in self._held.values() if h.owner == worker), key=lambda lease: lease.shard)
