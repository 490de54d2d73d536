"""Answers about a tenant's limits, and how each of them stands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self

from msgspec import Struct
from msgspec.structs import asdict

from api.schemas.budget import Left, LimitView
from domain.budget.limits import is_exceeded, is_warned
from domain.ids import Tenant
from domain.money import dollars
from domain.ports.ledger import Amount, LimitUsage, Scope, ScopeLimits
from domain.windows import Span, end_of, start_of


class AmountView(Struct, frozen=True):
    """Tokens and money."""

    tokens: int
    cost_usd: float

    @classmethod
    def of(cls, amount: Amount) -> Self:
        """Show an amount, its money in dollars."""
        return cls(amount.tokens, dollars(amount.cost))


class Count(Struct, frozen=True):
    """How a limit stands in its window, from `start` (inclusive) to `end` (exclusive); both are null for `lifetime`.

    `reserved` is the worst case of the calls in flight; `left` excludes it. `over`: the limit is spent. `strained`:
    spent and reserved together reach the warning threshold `warn_at`.
    """

    start: datetime | None
    end: datetime | None
    spent: AmountView
    reserved: AmountView
    left: Left
    over: bool
    strained: bool

    @classmethod
    def of(cls, usage: LimitUsage) -> Self:
        """Show how a limit stands."""
        limit, taken = usage.limit, usage.spent + usage.reserved
        end = end_of(usage.window, usage.start)
        return cls(
            start=usage.start if end else None,
            end=end,
            spent=AmountView.of(usage.spent),
            reserved=AmountView.of(usage.reserved),
            left=Left.of(limit, taken),
            over=is_exceeded(limit, usage.spent),
            strained=is_warned(limit, taken),
        )


class CountedLimit(LimitView, frozen=True):
    """A limit, and how it stands `now`; null for a limit for each turn."""

    now: Count | None


class ScopeView(Struct, frozen=True):
    """The limits of the calls of an agent, of a model, about a subject; null: of all."""

    subject: str | None
    agent: str | None
    model: str | None
    set_at: datetime
    actor: str | None
    limits: Sequence[CountedLimit]


class LimitsView(Struct, frozen=True):
    """A tenant's limits, in the windows that the instant `at` lies in. Every scope that includes a call counts it."""

    at: datetime
    scopes: Sequence[ScopeView]


class Setting(Struct, frozen=True):
    """The limits of a scope from an instant on. Without limits: they were lifted."""

    set_at: datetime
    actor: str | None
    subject: str | None
    agent: str | None
    model: str | None
    limits: Sequence[LimitView]

    @classmethod
    def of(cls, given: ScopeLimits) -> Self:
        """Show what was set."""
        scope = given.scope
        shown = [LimitView.of(limit) for limit in given.limits]
        whose = (scope.subject or None, scope.agent or None, scope.model or None)
        return cls(given.set_at, given.actor, *whose, shown)


def limits_view(limits: Sequence[ScopeLimits], usage: Sequence[LimitUsage], at: datetime) -> LimitsView:
    """Show limits and how they stand. A limit without usage was set only just now: nothing is spent of it."""
    found = {(one.scope, one.limit.window): one for one in usage}
    return LimitsView(at, [_scope(given, found, at) for given in limits])


def _scope(given: ScopeLimits, usage: Mapping[tuple[Scope | None, Span], LimitUsage], at: datetime) -> ScopeView:
    scope, shown = given.scope, []
    for limit in given.limits:
        now = None
        if limit.window != "turn":
            unused = LimitUsage(scope, limit, start_of(limit.window, at))
            now = Count.of(usage.get((scope, limit.window), unused))
        shown.append(CountedLimit(**asdict(LimitView.of(limit)), now=now))
    return ScopeView(scope.subject or None, scope.agent or None, scope.model or None, given.set_at, given.actor, shown)


def scope_of(tenant: Tenant, subject: str | None, agent: str | None, model: str | None) -> Scope:
    """Return the scope that a request names."""
    return Scope(tenant, agent or "", model or "", subject or "")
