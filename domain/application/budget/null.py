"""A ledger without limits and a text store that stores nothing: null objects for turns in a sandbox."""

# ruff: noqa: ARG002, D102  (the ports give the arguments and describe the methods)

from collections.abc import Collection, Mapping
from itertools import count
from uuid import UUID

from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.reservations import Reservations
from domain.application.budget.turn_budget import BudgetServices
from domain.application.thread_reader import ThreadReader
from domain.budget.prices import Prices
from domain.ports.clock import Clock
from domain.ports.ledger import Granted, Refused, Reservation


class NullLedger:
    """A `Ledger` without limits."""

    async def now(self, *_: object) -> None:
        return

    release = now

    async def set_limits(self, *_: object, **__: object) -> bool:
        raise TypeError("Nothing is limited here")

    async def limits(self, *_: object, **__: object) -> tuple[()]:
        return ()

    history = limit_usage = settle = open_reservations = limits

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        return Granted()


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
