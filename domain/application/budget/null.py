"""Where nothing is limited and nothing kept: for turns that are run in a sandbox."""

# ruff: noqa: ARG002  (a port says which arguments there are)

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
        """Have no time: nothing is counted."""
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
        """Refuse: nobody could ask for it."""
        raise TypeError("Nothing is limited here")

    async def limits(self, tenant: Tenant) -> Sequence[ScopeLimits]:
        """Return no limits."""
        return ()

    async def history(self, tenant: Tenant, limit: int) -> Sequence[ScopeLimits]:
        """Return nothing: no limit was ever set."""
        return ()

    async def limit_usage(self, tenant: Tenant, at: datetime) -> Sequence[LimitUsage]:
        """Return nothing: there are no limits."""
        return ()

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        """Grant everything."""
        return Granted()

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Sequence[LimitUsage]:
        """Keep no account."""
        return ()

    async def release(self, reservation: UUID) -> None:
        """Keep no account."""

    async def open_reservations(self, shards: Sequence[Shard]) -> Sequence[Reservation]:
        """Return nothing: nothing is reserved."""
        return ()


def null_budget(history: ThreadReader, clock: Clock, prices: Prices) -> BudgetServices:
    """Make an account of somebody whom nothing limits: no reservation has to be told from another process's."""
    ledger, numbers = NullLedger(), count(1)
    accounts = Reservations(ledger, LimitsCache(ledger, clock), history, prices)
    return BudgetServices(accounts, prices, clock, lambda: UUID(int=next(numbers)))


class NullTextStore:
    """A `TextStore` that keeps nothing."""

    async def keep(self, texts: Mapping[str, str]) -> None:
        """Keep nothing."""

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        """Return nothing."""
        return {}
