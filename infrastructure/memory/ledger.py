"""The ledger in memory, for the one process that there is. No method waits, so that each is done at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from domain.budget.accounts import (
    NOTHING,
    asked_of,
    counts,
    greatest,
    holds,
    minus,
    most_telling,
    passes,
    plus,
    warns,
    window_of,
)
from domain.ids import Shard, Tenant, shard_of, slice_of
from domain.ports.ledger import Amount, Granted, LimitUsage, Refused, Reservation, Scope, ScopeLimits
from domain.thread.events import Limit
from domain.windows import SPANS, WINDOWS, Window, start_of

Key: TypeAlias = tuple[Scope, Window, datetime]


@dataclass(eq=False)
class _Counter:
    spent: Amount = NOTHING
    reserved: Amount = NOTHING
    warned: bool = False


@dataclass(frozen=True)
class _Open:
    """What is reserved, and where: in these very counters, and in none that took their place."""

    reservation: Reservation
    strained: bool
    taken: Mapping[Key, _Counter]


@dataclass
class MemoryLedger:
    """A `Ledger` that a process keeps for itself."""

    _history: list[ScopeLimits] = field(default_factory=list)
    _counters: dict[Key, _Counter] = field(default_factory=dict)
    _open: dict[UUID, _Open] = field(default_factory=dict)

    async def now(self) -> datetime | None:
        """Have no time of its own: the only process has one."""
        return None

    async def set_limits(
        self,
        scope: Scope,
        limits: tuple[Limit, ...],
        at: datetime,
        actor: str | None,
        spent: Mapping[str, Amount],
        expected: tuple[Limit, ...] | None = None,
    ) -> bool:
        """Limit a scope from now on."""
        last = self._current().get(scope)
        before = last.limits if last else ()
        if before == limits:
            return True
        if expected is not None and expected != before:
            return False
        self._history.append(ScopeLimits(scope, limits, at, actor))
        counted = {limit.window for limit in before}
        for window in {limit.window for limit in limits} - counted - {"turn"}:
            key = _key(scope, window, at)
            there = self._counters.setdefault(key, _Counter())
            if window in spent:
                self._counters[key] = _Counter(greatest(there.spent, spent[window]))
        for (of, window, _), counter in self._counters.items():
            unchanged = any(limit.window == window and limit in before for limit in limits)
            if of == scope and not unchanged:
                counter.warned = False
        return True

    async def limits(self, tenant: Tenant) -> Sequence[ScopeLimits]:
        """Return the limits that hold."""
        found = [given for scope, given in self._current().items() if scope.tenant == tenant and given.limits]
        return sorted(found, key=lambda given: given.scope)

    async def history(self, tenant: Tenant, limit: int) -> Sequence[ScopeLimits]:
        """Return what was set and lifted."""
        return [given for given in reversed(self._history) if given.scope.tenant == tenant][:limit]

    async def limit_usage(self, tenant: Tenant, at: datetime) -> Sequence[LimitUsage]:
        """Return how each limit stands."""
        found = [
            self._usage(given.scope, limit, at)
            for given in await self.limits(tenant)
            for limit in given.limits
            if limit.window != "turn"
        ]
        return sorted(found, key=lambda usage: (usage.scope, SPANS.index(usage.limit.window)))

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Take from all limits, or from none."""
        if reservation.id in self._open:
            return Granted(self._open[reservation.id].strained)
        counting = list(self._usage_of(reservation))
        refusing = [one for one in counting if not holds(one.limit, asked_of(one, reservation))]
        if refusing:
            passing = all(passes(one, reservation) for one in refusing)
            return Refused(most_telling(refusing, reservation), passing)
        strained = any(not holds(one.limit, asked_of(one, reservation), one.limit.warn_at) for one in counting)
        keys = [_key(one.scope, window_of(one.limit), reservation.window_at) for one in counting]
        taken = {key: self._counters.setdefault(key, _Counter()) for key in keys}
        for counter in taken.values():
            counter.reserved = plus(counter.reserved, reservation.worst_case)
        if taken:
            self._open[reservation.id] = _Open(reservation, strained, taken)
        return Granted(strained)

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        """Turn what was reserved into what was spent."""
        ended = self._end(reservation, spent)
        warning = []
        for usage in self._usage_of(ended.reservation) if ended and not quietly else ():
            key = _key(usage.scope, window_of(usage.limit), usage.start)
            counter = ended.taken.get(key) if ended else None
            if counter and counter is self._counters[key] and not counter.warned and warns(usage.limit, counter.spent):
                counter.warned = True
                warning.append(usage)
        return warning

    async def release(self, reservation: UUID) -> None:
        """Give back what was reserved."""
        self._end(reservation, NOTHING)

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        """Return what is reserved under these shards."""
        held = [each.reservation for each in self._open.values()]
        return [one for one in held if shard_of(slice_of(one.thread_id)) in shards]

    def _current(self) -> Mapping[Scope, ScopeLimits]:
        return {given.scope: given for given in self._history}

    def _usage_of(self, reservation: Reservation) -> Iterator[LimitUsage]:
        """List the limits that count a call, as they stand in its windows."""
        for scope, given in self._current().items():
            if counts(scope, reservation.tenant, reservation.agent, reservation.model):
                for limit in given.limits:
                    if limit.window != "turn":
                        yield self._usage(scope, limit, reservation.window_at)

    def _usage(self, scope: Scope, limit: Limit, at: datetime) -> LimitUsage:
        counter = self._counters.get(_key(scope, window_of(limit), at), _Counter())
        return LimitUsage(scope, limit, start_of(window_of(limit), at), counter.spent, counter.reserved)

    def _end(self, reservation: UUID, spent: Amount) -> _Open | None:
        ended = self._open.pop(reservation, None)
        for counter in ended.taken.values() if ended else ():
            counter.reserved = minus(counter.reserved, ended.reservation.worst_case if ended else NOTHING)
            counter.spent = plus(counter.spent, spent)
        return ended


def _key(scope: Scope, window: str, at: datetime) -> Key:
    (known,) = (each for each in WINDOWS if each == window)
    return scope, known, start_of(known, at)
