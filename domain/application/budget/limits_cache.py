"""A cache of the limits of tenants and subjects, so that a model call of a tenant without limits needs no query."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from weakref import WeakValueDictionary

from domain.ids import Tenant
from domain.lru import Lru
from domain.ports.clock import Clock
from domain.ports.ledger import Amount, Ledger, ScopeLimits
from domain.thread.events import Limit

MAX_AGE = timedelta(seconds=1)
"""How old cached limits may be: limits that another process sets apply here after that."""

MAX_CACHED = 10_000
"""Pairs of a tenant and a subject whose limits are cached, each as one byte. The least recently used are dropped."""


class LimitsCache:
    """Caches limits for a moment. Limits that are set through it apply at once."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._cached = Lru[tuple[Tenant, str], tuple[datetime, Sequence[ScopeLimits]]](MAX_CACHED)
        self._locks: WeakValueDictionary[tuple[Tenant, str], asyncio.Lock] = WeakValueDictionary()
        self._times_set = 0
        self._time: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Return the ledger's time, so that processes with clocks hours apart count in the same windows.

        It is read once in `MAX_AGE`. In between, the monotonic clock adds the time that has passed, so that
        changes of this machine's clock do not matter.
        """
        passed = monotonic()
        if self._time is None or passed - self._time[1] >= MAX_AGE.total_seconds():
            found = await self._ledger.now()
            if found is None:
                return self._clock.now()
            self._time, passed = (found, monotonic()), monotonic()
        at, since = self._time
        return at + timedelta(seconds=passed - since)

    async def of(self, tenant: Tenant, subject: str = "") -> Sequence[ScopeLimits]:
        """Return the limits that count calls of a tenant about a subject, at most `MAX_AGE` old.

        Concurrent calls share one query.
        """
        whose = tenant, subject
        async with self._locks.setdefault(whose, asyncio.Lock()):
            now, times_set, cached = self._clock.now(), self._times_set, self._cached.get(whose)
            if cached and timedelta(0) <= now - cached[0] < MAX_AGE:
                return cached[1]
            found = await self._ledger.limits(tenant, {"", subject})
            if times_set == self._times_set:  # otherwise it may be older than what was set
                self._cached.put(whose, (now, found), 1)
            return found

    async def set(
        self, given: ScopeLimits, spent: Mapping[str, Amount], expected: tuple[Limit, ...] | None = None
    ) -> bool:
        """Set limits as `Ledger.set_limits` does."""
        try:
            return await self._ledger.set_limits(given, spent, expected)
        finally:
            self._times_set += 1
            self._cached.clear()  # a limit of the tenant counts calls about every subject
