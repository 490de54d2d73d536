"""A ledger without limits and a text store that stores nothing: null objects for turns in a sandbox."""

# ruff: noqa: ARG002, D102  (the ports give the arguments and describe the methods)

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import count
from uuid import UUID

from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.reservations import Reservations
from domain.application.budget.turn_budget import BudgetServices
from domain.application.thread_reader import ThreadReader
from domain.budget.prices import Prices
from domain.ids import Shard, Tenant
from domain.ports.clock import Clock
from domain.ports.ledger import Amount, Granted, LimitUsage, Refused, Reservation, Scope, ScopeLimits
from domain.thread.events import Limit


class NullLedger:
    """A `Ledger` without limits."""

    async def now(self) -> datetime | None:
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
        raise TypeError("Nothing is limited here")

    async def limits(self, tenant: Tenant) -> Sequence[ScopeLimits]:
        return ()

    async def history(self, tenant: Tenant, limit: int) -> Sequence[ScopeLimits]:
        return ()

    async def limit_usage(self, tenant: Tenant, at: datetime) -> Sequence[LimitUsage]:
        return ()

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        return Granted()

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        return ()

    async def release(self, reservation: UUID) -> None:
        return

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        return ()


def null_budget(history: ThreadReader, clock: Clock, prices: Prices) -> BudgetServices:
    """Return budget services without limits. Reservations are numbered: no other process shares them."""
    ledger, numbers = NullLedger(), count(1)
    reservations = Reservations(ledger, LimitsCache(ledger, clock), history, prices)
    return BudgetServices(reservations, prices, clock, lambda: UUID(int=next(numbers)))


class NullTextStore:
    """A `TextStore` that stores nothing."""

    async def keep(self, texts: Mapping[str, str]) -> None:
        return

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        return {}
