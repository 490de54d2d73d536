"""What a tenant may spend, and how each of its limits stands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self

from msgspec import Struct

from api.schemas.budget import Left, LimitView
from domain.budget.accounts import is_over, minus, plus, warns, window_of
from domain.ids import Tenant
from domain.money import dollars
from domain.ports.ledger import Amount, LimitUsage, Scope, ScopeLimits
from domain.thread.events import Limit
from domain.windows import Span, end_of, start_of


class AmountView(Struct, frozen=True):
    """Tokens and money."""

    tokens: int
    cost_usd: float

    @classmethod
    def of(cls, amount: Amount) -> Self:
        """Show an amount in dollars."""
        return cls(amount.tokens, dollars(amount.cost))


class Count(Struct, frozen=True):
    """How a limit stands in its window, from `start` (included) to `end` (excluded); both are null for `lifetime`.

    `reserved` is the most that calls under way can take, and not `left` either. `over`: all of it is spent; `strained`:
    what is spent and reserved reaches `warn_at`.
    """

    start: datetime | None
    end: datetime | None
    spent: AmountView
    reserved: AmountView
    left: Left
    over: bool
    strained: bool

    @classmethod
    def of(cls, standing: LimitUsage) -> Self:
        """Show how a limit stands."""
        limit, taken = standing.limit, plus(standing.spent, standing.reserved)
        end = end_of(window_of(limit), standing.start)
        return cls(
            standing.start if end else None,
            end,
            AmountView.of(standing.spent),
            AmountView.of(standing.reserved),
            _left(limit, taken),
            is_over(standing),
            warns(limit, taken),
        )


class CountedLimit(Struct, frozen=True):
    """A limit, and how it stands; null of a limit for turns, each of which begins anew."""

    window: Span
    tokens: int | None
    cost_usd: float | None
    warn_at: float
    now: Count | None


class ScopeView(Struct, frozen=True):
    """What limits the calls of an agent, of a model, or of both; null: of any."""

    agent: str | None
    model: str | None
    set_at: datetime
    actor: str | None
    limits: Sequence[CountedLimit]


class LimitsView(Struct, frozen=True):
    """A tenant's limits, in the windows that the instant `at` lies in. A call is counted by each that it fits."""

    at: datetime
    scopes: Sequence[ScopeView]


class Setting(Struct, frozen=True):
    """What limited some calls from an instant on. No limits: they were lifted."""

    set_at: datetime
    actor: str | None
    agent: str | None
    model: str | None
    limits: Sequence[LimitView]

    @classmethod
    def of(cls, given: ScopeLimits) -> Self:
        """Show what was set."""
        scope = given.scope
        shown = [LimitView.of(limit) for limit in given.limits]
        return cls(given.set_at, given.actor, scope.agent or None, scope.model or None, shown)


def limits_view(limits: Sequence[ScopeLimits], standings: Sequence[LimitUsage], at: datetime) -> LimitsView:
    """Show limits with how they stand. One that was set only just now stands as if nothing was spent."""
    found = {(one.scope, one.limit.window): one for one in standings}
    return LimitsView(at, [_scope(given, found, at) for given in limits])


def _scope(given: ScopeLimits, standings: Mapping[tuple[Scope, Span], LimitUsage], at: datetime) -> ScopeView:
    scope = given.scope
    shown = [_counted(scope, limit, standings.get((scope, limit.window)), at) for limit in given.limits]
    return ScopeView(scope.agent or None, scope.model or None, given.set_at, given.actor, shown)


def _counted(scope: Scope, limit: Limit, standing: LimitUsage | None, at: datetime) -> CountedLimit:
    now = None
    if limit.window != "turn":
        now = Count.of(standing or LimitUsage(scope, limit, start_of(window_of(limit), at)))
    shown = LimitView.of(limit)
    return CountedLimit(shown.window, shown.tokens, shown.cost_usd, shown.warn_at, now)


def _left(limit: Limit, taken: Amount) -> Left:
    rest = minus(Amount(limit.tokens or 0, limit.cost or 0), taken)
    return Left(
        None if limit.tokens is None else max(rest.tokens, 0),
        None if limit.cost is None else dollars(max(rest.cost, 0)),
    )


def scope_of(tenant: Tenant, agent: str | None, model: str | None) -> Scope:
    """Read whose calls are meant."""
    return Scope(tenant, agent or "", model or "")
