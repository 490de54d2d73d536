"""The shards that a worker leases, and its fair share of them.

Renewal waits for nothing but the store: what is given up is abandoned and released by tasks of its own.
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

HANDOVER_PATIENCE_S = 5.0
"""Seconds that a turn has to end by itself before its shard goes to a worker that has too few."""


@dataclass
class Shards:
    """Leases of one worker. `lease` is in seconds; on `standby` it takes shards only while no other worker does.

    `busy` names the threads whose turns run here, `abandon` stops those of some shards, and `spawn` runs a task.
    """

    leases: LeaseStore
    wakeups: Wakeups
    id: WorkerId
    name: str
    agents: Callable[[], Collection[str]]
    lease: float
    standby: bool
    busy: Callable[[], Collection[ThreadId]]
    abandon: Callable[[Collection[Shard]], Awaitable[None]]
    spawn: Callable[[Coroutine[None, None, None]], object]
    others: bool = field(init=False, default=False)
    """Whether there are other workers to hand turns over to."""
    leaving: bool = field(init=False, default=False)
    """Whether the worker ends: then leases are only renewed, until they are given back, and no turn is begun."""
    _held: dict[Shard, Lease] = field(init=False, default_factory=dict)
    _releasing: dict[Shard, Lease] = field(init=False, default_factory=dict)
    """Leases under which turns that are handed over may still store what they have done."""
    _valid_until: float | None = field(init=False, default=None)
    _claims_from: float = field(init=False, default=0.0)
    _too_many_since: float | None = field(init=False, default=None)
    _asked_at: float = field(init=False, default=0.0)

    @property
    def tick(self) -> float:
        """Seconds between two renewals."""
        return min(self.lease / 4, 2.0)

    @property
    def valid(self) -> bool:
        """Whether the leases have not run out since they were renewed."""
        return not self.leaving and self._valid_until is not None and _now() < self._valid_until

    def held(self) -> Collection[Shard]:
        """Name the shards."""
        return self._held.keys()

    def epochs(self) -> dict[Shard, int]:
        """Return the epoch of each lease."""
        return {shard: lease.epoch for shard, lease in self._held.items()}

    def slices(self) -> Sequence[Slice]:
        """Return the slices that are this worker's to look after."""
        if not self.valid:
            return []
        return [Slice(slice_) for shard in sorted(self._held) for slice_ in slices_of(shard)]

    def hold(self, thread_id: ThreadId) -> bool:
        """Say whether this worker may begin to run a turn of the thread."""
        return self.valid and shard_of(slice_of(thread_id)) in self._held

    def fence(self, thread_id: ThreadId) -> Fence:
        """Name the lease that covers a thread; without one, an epoch that is over."""
        shard = shard_of(slice_of(thread_id))
        lease = self._held.get(shard) or self._releasing.get(shard)
        return Fence(shard, lease.epoch if lease else 0)

    def is_later(self, thread_id: ThreadId, position: Position) -> bool:
        """Say whether an event of the thread was stored after this worker had taken the thread's shard."""
        slice_ = slice_of(thread_id)
        lease = self._held.get(shard_of(slice_))
        return lease is not None and bool(lease.heads) and position > lease.heads[slice_ % len(lease.heads)]

    async def share(self) -> None:
        """Renew the leases; take shards, or give some back, so that every worker has as many."""
        asked = _now()
        standing = await self._renew()
        if self._valid_until is not None and _now() > self._valid_until:
            # The store was away, or this process hung. Other workers may be alive and only as late as this one:
            # they have the time of a lease to renew theirs before their turns are taken from them.
            self._claims_from = _now() + self.lease
        self._keep(standing)
        self._valid_until = asked + self.lease
        if self.leaving:
            return
        self.others = standing.workers > (0 if self.standby else 1)
        share = self._share_of(standing.workers)
        missing = share - len(self._held)
        if missing > 0 and _now() >= self._claims_from:
            async with asyncio.timeout(self.lease / 2):
                claimed = await self.leases.claim(self.id, self.lease, missing)
            self._held |= {lease.shard: lease for lease in claimed}
            self._ask_for_shares(SHARDS // max(standing.workers, 1))
        self._give_back(-missing)

    async def leave(self, close: Callable[[], Awaitable[None]]) -> None:
        """Give idle shards back at once, and have `close` end what runs in the others."""
        busy = self._busy()
        await self._release([shard for shard in self._held if shard not in busy])
        await close()

    async def give_all_back(self) -> None:
        """Give every lease back: nothing runs under them any more, and they are not renewed."""
        await self.leases.leave(self.id)
        self.wakeups.send(SharesChanged())

    def forget(self) -> None:
        """Hold nothing any more."""
        self._held, self._valid_until, self.leaving = {}, None, False

    async def _renew(self) -> WorkerShare:
        """Renew, in half a lease at most: another connection may be quicker than one that has lost its server."""
        async with asyncio.timeout(self.lease / 2):
            return await self.leases.renew(
                self.id, self.name, self.lease, standby=self.standby or self.leaving, agents=self.agents()
            )

    def _keep(self, standing: WorkerShare) -> None:
        """Take over what the store says; have abandoned what is lost."""
        held = {lease.shard: lease for lease in standing.leases if lease.shard not in self._releasing}
        lost = {shard for shard, lease in self._held.items() if shard not in held or held[shard].epoch != lease.epoch}
        kept = {shard: lease for shard, lease in self._held.items() if shard not in lost}
        self._held = {shard: kept.get(shard, replace(lease, heads=())) for shard, lease in held.items()}
        if lost:
            self.spawn(self._abandon(lost))

    async def _abandon(self, shards: Collection[Shard]) -> None:
        await self.abandon(shards)

    def _ask_for_shares(self, least: int) -> None:
        """Remind workers that have too many, but not over and over: they may be frozen."""
        if len(self._held) < least and _now() - self._asked_at > self.tick / 2:
            self._asked_at = _now()
            self.wakeups.send(SharesChanged())

    def _share_of(self, workers: int) -> int:
        if self.standby:
            return 0 if workers else SHARDS
        return -(-SHARDS // max(workers, 1))

    def _give_back(self, surplus: int) -> None:
        """Release shards that others should have: idle ones first, and after a while the others, too."""
        if surplus <= 0:
            self._too_many_since = None
            return
        self._too_many_since = self._too_many_since or _now()
        busy = self._busy()
        idle = [shard for shard in self._held if shard not in busy]
        impatient = _now() - self._too_many_since > HANDOVER_PATIENCE_S
        given = (idle + [shard for shard in self._held if shard in busy and impatient])[:surplus]
        if given:
            self.spawn(self._release(given))

    async def _release(self, shards: Collection[Shard]) -> None:
        """Stop what runs in some shards, and free them. Meanwhile they are not renewed in this worker's name."""
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
