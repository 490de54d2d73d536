"""The limits of tenants as they were a moment ago, so that a call of a tenant that has none asks nobody."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from weakref import WeakValueDictionary

from msgspec import Struct

from domain.ids import Tenant
from domain.ports.clock import Clock
from domain.ports.ledger import Amount, Ledger, Scope, ScopeLimits
from domain.thread.events import Limit

MAX_AGE_S = 1.0
"""Seconds that limits are believed for. What another process sets holds here after that."""

MAX_TENANTS = 1_000
"""Tenants that are remembered."""


class _Known(Struct, frozen=True):
    asked_at: datetime
    limits: Sequence[ScopeLimits]


class LimitsCache:
    """Remembers limits for a moment. What is set through it holds at once."""

    def __init__(self, ledger: Ledger, clock: Clock, age: float = MAX_AGE_S) -> None:
        """Remember limits of a ledger for `age` seconds."""
        self._ledger = ledger
        self._clock = clock
        self._age = timedelta(seconds=age)
        self._known: dict[Tenant, _Known] = {}
        self._locks: WeakValueDictionary[Tenant, asyncio.Lock] = WeakValueDictionary()
        self._times_set = 0
        self._time: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Return the ledger's time, so that processes with clocks hours apart count in the same windows.

        It is asked for once in `age` seconds. In between, the time that has passed is added, whatever becomes of this
        machine's clock.
        """
        passed = monotonic()
        if self._time is None or passed - self._time[1] >= self._age.total_seconds():
            found = await self._ledger.now()
            if found is None:
                return self._clock.now()
            self._time, passed = (found, monotonic()), monotonic()
        at, since = self._time
        return at + timedelta(seconds=passed - since)

    async def of(self, tenant: Tenant) -> Sequence[ScopeLimits]:
        """Return a tenant's limits, which may be a moment old."""
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            now, times_set, known = self._clock.now(), self._times_set, self._known.get(tenant)
            if known and timedelta(0) <= now - known.asked_at < self._age:
                return known.limits
            found = await self._ledger.limits(tenant)
            if times_set == self._times_set:  # otherwise it may be what was there before
                self._remember(tenant, _Known(now, found))
            return found

    async def set(
        self,
        scope: Scope,
        limits: tuple[Limit, ...],
        at: datetime,
        actor: str | None,
        spent: Mapping[str, Amount],
        expected: tuple[Limit, ...] | None = None,
    ) -> bool:
        """Set limits as `Ledger.set_limits` does."""
        try:
            return await self._ledger.set_limits(scope, limits, at, actor, spent, expected)
        finally:
            self._times_set += 1
            self._known.pop(scope.tenant, None)

    def _remember(self, tenant: Tenant, known: _Known) -> None:
        self._known.pop(tenant, None)
        self._known[tenant] = known
        if len(self._known) > MAX_TENANTS:
            del self._known[next(iter(self._known))]
