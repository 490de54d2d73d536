"""How a limit is held against what is spent and reserved of it: the rules that every ledger follows."""

from collections.abc import Iterable
from fractions import Fraction
from typing import cast

from domain.ports.ledger import Amount, LimitUsage, Reservation, Scope, ScopeLimits
from domain.thread.events import Limit
from domain.windows import WINDOWS, Window

NOTHING = Amount()


def plus(one: Amount, other: Amount) -> Amount:
    """Add amounts."""
    return Amount(one.tokens + other.tokens, one.cost + other.cost)


def minus(one: Amount, other: Amount) -> Amount:
    """Take an amount away."""
    return Amount(one.tokens - other.tokens, one.cost - other.cost)


def greatest(one: Amount, other: Amount) -> Amount:
    """Return the more of both, in tokens and in money: of two figures that have not missed the same calls."""
    return Amount(max(one.tokens, other.tokens), max(one.cost, other.cost))


def counts(scope: Scope, tenant: str, agent: str, model: str) -> bool:
    """Say whether a scope has the calls of an agent and a model."""
    return scope.tenant == tenant and scope.agent in {"", agent} and scope.model in {"", model}


def is_limited(limits: Iterable[ScopeLimits], agent: str, model: str) -> bool:
    """Say whether some limit of a tenant counts the calls of an agent and a model; those for turns do not."""
    return any(
        counts(each.scope, each.scope.tenant, agent, model) and any(limit.window != "turn" for limit in each.limits)
        for each in limits
    )


def window_of(limit: Limit) -> Window:
    """Return the window of a limit that is not for turns."""
    return cast(Window, limit.window)


def holds(limit: Limit, amount: Amount, share: float = 1) -> bool:
    """Say whether an amount lies within a share of a limit."""
    part = Fraction(repr(share))
    return (limit.tokens is None or amount.tokens <= part * limit.tokens) and (
        limit.cost is None or amount.cost <= part * limit.cost
    )


def warns(limit: Limit, spent: Amount) -> bool:
    """Say whether the share `warn_at` of a limit is spent."""
    part = Fraction(repr(limit.warn_at))
    return (limit.tokens is not None and spent.tokens >= part * limit.tokens) or (
        limit.cost is not None and spent.cost >= part * limit.cost
    )


def is_over(standing: LimitUsage) -> bool:
    """Say whether nothing is left of a limit, in tokens or in money."""
    limit, spent = standing.limit, standing.spent
    return (limit.tokens is not None and spent.tokens >= limit.tokens) or (
        limit.cost is not None and spent.cost >= limit.cost
    )


def asked_of(standing: LimitUsage, reservation: Reservation) -> Amount:
    """Return what would be spent and reserved of a limit with one more reservation."""
    return plus(plus(standing.spent, standing.reserved), reservation.worst_case)


def passes(standing: LimitUsage, reservation: Reservation) -> bool:
    """Say whether a reservation would fit if what others reserved came back."""
    return holds(standing.limit, plus(standing.spent, reservation.worst_case))


def most_telling(refusing: Iterable[LimitUsage], reservation: Reservation) -> LimitUsage:
    """Choose of the limits that refuse a reservation the one to name: whoever waits, waits for this one the longest."""

    def weight(standing: LimitUsage) -> tuple[bool, int]:
        return not passes(standing, reservation), WINDOWS.index(window_of(standing.limit))

    return max(refusing, key=weight)
