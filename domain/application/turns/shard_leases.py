"""The shards that a worker leases, and its fair share of them.

A renewal waits for nothing but the store: shards are abandoned and released in tasks of their own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.ids import SHARDS, Position, Shard, Slice, ThreadId, WorkerId, shard_of, slice_of, slices_of
from domain.ports.leases import Lease, LeaseStore, WorkerShare
from domain.ports.log import Fence
from domain.ports.wakeups import SharesChanged, Wakeups

_log = logging.getLogger(__name__)

HANDOVER_WAIT_S = 5.0
"""Seconds that a turn has to end before its shard is handed over to a worker that has too few."""


@dataclass
class Shards:
    """Leases of one worker. `lease` is in seconds; on `standby` it takes shards only while no other worker does.

    `busy` returns the threads whose turns run here, `abandon` stops the turns of some shards, and `spawn` runs a
    coroutine in a task.
    """

    leases: LeaseStore
    wakeups: Wakeups
    id: WorkerId
    name: str
    agents: Callable[[], Collection[str]]
    lease: float
    standby: bool
    busy: Callable[[], Collection[ThreadId]]
    abandon: Callable[[Collection[Shard]], Coroutine[None, None, None]]
    spawn: Callable[[Coroutine[None, None, None]], object]
    others: bool = field(init=False, default=False)
    """Whether there are other workers to hand turns over to."""
    leaving: bool = field(init=False, default=False)
    """Whether the worker ends. Then leases are only renewed until they are released, and no turn is begun."""
    _held: dict[Shard, Lease] = field(init=False, default_factory=dict)
    _releasing: dict[Shard, Lease] = field(init=False, default_factory=dict)
    """Leases of shards that are being handed over: their turns may still store their last reports."""
    _valid_until: float | None = field(init=False, default=None)
    _claims_from: float = field(init=False, default=0.0)
    _too_many_since: float | None = field(init=False, default=None)
    _requested_at: float = field(init=False, default=0.0)

    @property
    def tick(self) -> float:
        """Seconds between two renewals of the leases."""
        return min(self.lease / 4, 2.0)

    @property
    def valid(self) -> bool:
        """Whether the leases have not expired, by this process's clock."""
        return not self.leaving and self._valid_until is not None and _now() < self._valid_until

    def held(self) -> Collection[Shard]:
        """Return the shards that this worker holds."""
        return self._held.keys()

    def epochs(self) -> dict[Shard, int]:
        """Return the epoch of each lease."""
        return {shard: lease.epoch for shard, lease in self._held.items()}

    def slices(self) -> Sequence[Slice]:
        """Return the slices of these shards; none if the leases may have expired."""
        if not self.valid:
            return []
        return [Slice(slice_) for shard in sorted(self._held) for slice_ in slices_of(shard)]

    def hold(self, thread_id: ThreadId) -> bool:
        """Say whether this worker may begin to run a turn of the thread."""
        return self.valid and shard_of(slice_of(thread_id)) in self._held

    def fence(self, thread_id: ThreadId) -> Fence:
        """Return the fencing token for a thread; without a lease, one with an epoch that is over."""
        shard = shard_of(slice_of(thread_id))
        lease = self._held.get(shard) or self._releasing.get(shard)
        return Fence(shard, lease.epoch if lease else 0)

    def is_later(self, thread_id: ThreadId, position: Position) -> bool:
        """Say whether an event of the thread was stored after this worker had leased the thread's shard."""
        slice_ = slice_of(thread_id)
        lease = self._held.get(shard_of(slice_))
        return lease is not None and bool(lease.heads) and position > lease.heads[slice_ % len(lease.heads)]

    async def share(self) -> None:
        """Renew the leases. Claim or release shards, so that every worker has the same number."""
        asked = _now()
        current = await self._renew()
        if self._valid_until is not None and _now() > self._valid_until:
            # The store was unavailable, or this process hung. Other workers may be alive and just as late: they get
            # the time of a lease to renew theirs before this one claims their shards.
            self._claims_from = _now() + self.lease
        self._update(current)
        self._valid_until = asked + self.lease
        if self.leaving:
            return
        self.others = current.workers > (0 if self.standby else 1)
        share = self._share_of(current.workers)
        missing = share - len(self._held)
        if missing > 0 and _now() >= self._claims_from:
            async with asyncio.timeout(self.lease / 2):
                claimed = await self.leases.claim(self.id, self.lease, missing)
            self._held |= {lease.shard: lease for lease in claimed}
            self._request_shares(SHARDS // max(current.workers, 1))
        self._give_back(-missing)

    async def leave(self, close: Callable[[], Awaitable[None]]) -> None:
        """Release idle shards at once, and let `close` end the turns in the others."""
        busy = self._busy()
        await self._release([shard for shard in self._held if shard not in busy])
        await close()

    async def give_all_back(self) -> None:
        """Release every lease. Nothing must run under them, and they must not be renewed."""
        await self.leases.leave(self.id)
        self.wakeups.send(SharesChanged())

    def forget(self) -> None:
        """Hold no shard from now on."""
        self._held, self._valid_until, self.leaving = {}, None, False

    async def _renew(self) -> WorkerShare:
        """Renew within half a lease: another connection may be quicker than one that has lost its server."""
        async with asyncio.timeout(self.lease / 2):
            return await self.leases.renew(
                self.id, self.name, self.lease, standby=self.standby or self.leaving, agents=self.agents()
            )

    def _update(self, current: WorkerShare) -> None:
        """Update the held leases from the store's answer, and abandon the turns of lost shards."""
        held = {lease.shard: lease for lease in current.leases if lease.shard not in self._releasing}
        lost = {shard for shard, lease in self._held.items() if shard not in held or held[shard].epoch != lease.epoch}
        kept = {shard: lease for shard, lease in self._held.items() if shard not in lost}
        self._held = {shard: kept.get(shard, replace(lease, heads=())) for shard, lease in held.items()}
        if lost:
            self.spawn(self.abandon(lost))

    def _request_shares(self, least: int) -> None:
        """Send a wake-up to workers that have too many shards, but not at every tick: they may be frozen."""
        if len(self._held) < least and _now() - self._requested_at > self.tick / 2:
            self._requested_at = _now()
            self.wakeups.send(SharesChanged())

    def _share_of(self, workers: int) -> int:
        if self.standby:
            return 0 if workers else SHARDS
        return -(-SHARDS // max(workers, 1))

    def _give_back(self, surplus: int) -> None:
        """Release surplus shards: idle ones first, and busy ones after `HANDOVER_WAIT_S`."""
        if surplus <= 0:
            self._too_many_since = None
            return
        self._too_many_since = self._too_many_since or _now()
        busy = self._busy()
        idle = [shard for shard in self._held if shard not in busy]
        overdue = _now() - self._too_many_since > HANDOVER_WAIT_S
        given = (idle + [shard for shard in self._held if shard in busy and overdue])[:surplus]
        if given:
            self.spawn(self._release(given))

    async def _release(self, shards: Collection[Shard]) -> None:
        """Abandon the turns of some shards, and release their leases. Meanwhile they are not renewed."""
        if not shards:
            return
        self._releasing |= {shard: self._held.pop(shard) for shard in shards if shard in self._held}
        try:
            await self.abandon(shards)
            await self.leases.release(self.id, shards)
        finally:
            for shard in shards:
                self._releasing.pop(shard, None)
        self.wakeups.send(SharesChanged())

    def _busy(self) -> set[Shard]:
        return {shard_of(slice_of(thread_id)) for thread_id in self.busy()}


def _now() -> float:
    return asyncio.get_running_loop().time()
