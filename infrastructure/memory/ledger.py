"""The ledger in the memory of a single process. No method waits, so each is atomic."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from domain.budget.limits import fits, is_warned
from domain.ids import Shard, Tenant, shard_of, slice_of
from domain.ports.ledger import NOTHING, Amount, Granted, LimitUsage, Refused, Reservation, Scope, ScopeLimits
from domain.thread.events import Limit
from domain.windows import SPANS, WINDOWS, Window, start_of

Key: TypeAlias = tuple[Scope | None, Window, datetime]


@dataclass(eq=False)
class _Counter:
    spent: Amount = NOTHING
    reserved: Amount = NOTHING
    warned: bool = False


@dataclass(frozen=True)
class _Open:
    """An open reservation, and the counters that have it. A counter that took the place of one of them has not."""

    reservation: Reservation
    counters: Mapping[Key, _Counter]


@dataclass
class MemoryLedger:
    """A `Ledger` that is lost with its process."""

    _history: list[ScopeLimits] = field(default_factory=list)
    _counters: dict[Key, _Counter] = field(default_factory=dict)
    _open: dict[UUID, _Open] = field(default_factory=dict)

    async def now(self) -> datetime | None:
        return None

    async def set_limits(
        self, given: ScopeLimits, spent: Mapping[str, Amount], expected: tuple[Limit, ...] | None = None
    ) -> bool:
        scope, limits = given.scope, given.limits
        last = self._current().get(scope)
        before = last.limits if last else ()
        if before == limits:
            return True
        if expected is not None and expected != before:
            return False
        self._history.append(given)
        new = {limit.window for limit in limits} - {limit.window for limit in before}
        for window in [window for window in WINDOWS if window in new]:
            key = scope, window, start_of(window, given.set_at)
            there = self._counters.setdefault(key, _Counter())
            if window in spent:
                seed, counted = spent[window], there.spent
                highest = Amount(max(seed.tokens, counted.tokens), max(seed.cost, counted.cost))
                self._counters[key] = _Counter(highest)
        for (of, window, _), counter in self._counters.items():
            unchanged = any(limit.window == window and limit in before for limit in limits)
            if of == scope and not unchanged:
                counter.warned = False
        return True

    async def limits(self, tenant: Tenant, subjects: Collection[str] | None = None) -> Sequence[ScopeLimits]:
        found = [
            given
            for scope, given in self._current().items()
            if scope.tenant == tenant and given.limits and (subjects is None or scope.subject in subjects)
        ]
        return sorted(found, key=lambda given: given.scope)

    async def history(self, tenant: Tenant, limit: int, subject: str | None = None) -> Sequence[ScopeLimits]:
        found = [given for given in reversed(self._history) if given.scope.tenant == tenant]
        return [given for given in found if subject in {None, given.scope.subject}][:limit]

    async def limit_usage(
        self, tenant: Tenant, at: datetime, scopes: Collection[Scope] | None = None
    ) -> Sequence[LimitUsage]:
        found = [given for given in await self.limits(tenant) if scopes is None or given.scope in scopes]
        return [usage for given in found for usage in self._usage(given, at)]

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        if reservation.id in self._open:
            return Granted()
        counting, worst_case = list(self._counting(reservation)), reservation.worst_case
        refusing = [one for one in counting if not fits(one.limit, one.spent + one.reserved + worst_case)]
        if refusing:
            for_good = [one for one in refusing if not fits(one.limit, one.spent + worst_case)]
            usage = max(for_good or refusing, key=lambda one: WINDOWS.index(one.window))
            return Refused(usage, temporary=not for_good)
        keys = [(one.scope, one.window, one.start) for one in counting]
        counters = {key: self._counters.setdefault(key, _Counter()) for key in keys}
        for counter in counters.values():
            counter.reserved += worst_case
        if counters:
            self._open[reservation.id] = _Open(reservation, counters)
        return Granted()

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        ended = self._open.pop(reservation, None)
        if ended is None:
            return []
        for counter in ended.counters.values():
            counter.reserved -= ended.reservation.worst_case
            counter.spent += spent
        warning = []
        for usage in () if quietly else self._counting(ended.reservation):
            key = usage.scope, usage.window, usage.start
            counted = ended.counters.get(key)
            if (
                counted
                and counted is self._counters[key]
                and not counted.warned
                and is_warned(usage.limit, usage.spent)
            ):
                counted.warned = True
                warning.append(usage)
        return warning

    async def release(self, reservation: UUID) -> None:
        await self.settle(reservation, NOTHING, quietly=True)

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        found = [each.reservation for each in self._open.values()]
        return [one for one in found if shard_of(slice_of(one.thread_id)) in shards]

    def _current(self) -> Mapping[Scope, ScopeLimits]:
        return {given.scope: given for given in self._history}

    def _counting(self, reservation: Reservation) -> Iterator[LimitUsage]:
        """List the limits that count a call, and how they stand in its windows."""
        for scope, given in self._current().items():
            call = reservation
            if scope.tenant == call.tenant and scope.counts(call.agent, call.model, subject=call.subject):
                yield from self._usage(given, reservation.window_at)

    def _usage(self, given: ScopeLimits, at: datetime) -> Iterator[LimitUsage]:
        for limit in sorted(given.limits, key=lambda limit: SPANS.index(limit.window)):
            if limit.window != "turn":
                start = start_of(limit.window, at)
                counter = self._counters.get((given.scope, limit.window, start), _Counter())
                yield LimitUsage(given.scope, limit, start, counter.spent, counter.reserved)
