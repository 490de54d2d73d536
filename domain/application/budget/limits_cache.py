"""A cache of tenants' limits, so that a model call of a tenant without limits needs no query."""

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
"""How old cached limits may be: limits that another process sets apply here after that."""

MAX_TENANTS = 1_000
"""Tenants whose limits are cached; the one that was read first is dropped."""


class _Cached(Struct, frozen=True):
    read_at: datetime
    limits: Sequence[ScopeLimits]


class LimitsCache:
    """Caches limits for a moment. Limits that are set through it apply at once."""

    def __init__(self, ledger: Ledger, clock: Clock, age: float = MAX_AGE_S) -> None:
        self._ledger = ledger
        self._clock = clock
        self._age = timedelta(seconds=age)
        self._cached: dict[Tenant, _Cached] = {}
        self._locks: WeakValueDictionary[Tenant, asyncio.Lock] = WeakValueDictionary()
        self._times_set = 0
        self._time: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Return the ledger's time, so that processes with clocks hours apart count in the same windows.

        It is read once in `age` seconds. In between, the monotonic clock adds the time that has passed, so that
        changes of this machine's clock do not matter.
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
        """Return a tenant's limits, at most `age` seconds old. Concurrent calls share one query."""
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            now, times_set, cached = self._clock.now(), self._times_set, self._cached.get(tenant)
            if cached and timedelta(0) <= now - cached.read_at < self._age:
                return cached.limits
            found = await self._ledger.limits(tenant)
            if times_set == self._times_set:  # otherwise it may be older than what was set
                self._cached.pop(tenant, None)
                self._cached[tenant] = _Cached(now, found)
                if len(self._cached) > MAX_TENANTS:
                    del self._cached[next(iter(self._cached))]
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
            self._cached.pop(scope.tenant, None)
