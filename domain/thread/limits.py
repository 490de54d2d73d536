"""Which limits a thread or a tenant may have."""

from collections.abc import Iterable

from domain.errors import InvalidInput
from domain.money import PER_DOLLAR
from domain.thread.events import Limit
from domain.windows import SPANS, Span

MAX_TOKENS = 10**15
"""Tokens that a limit may name: every program reads a number like that exactly."""

MAX_COST = 1_000_000 * PER_DOLLAR
"""Money that a limit may name: a million dollars, in units."""


def check_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Bring limits into the order of their windows. Nothing is no limit: each window would begin over budget.

    Raises:
        InvalidInput: naming the limit, as `limits.0`.
    """
    found: dict[Span, Limit] = {}
    for index, limit in enumerate(limits):
        field = f"limits.{index}"
        if limit.window in found:
            raise InvalidInput(f"{field}.window", f"there is a limit for {limit.window} already")
        if limit.tokens is None and limit.cost is None:
            raise InvalidInput(field, "needs tokens, cost_usd or both; without limits at all, the budget is lifted")
        if limit.tokens is not None and not 1 <= limit.tokens <= MAX_TOKENS:
            raise InvalidInput(f"{field}.tokens", f"must lie between 1 and {MAX_TOKENS}")
        if limit.cost is not None and not 1 <= limit.cost <= MAX_COST:
            least, most = f"{1 / PER_DOLLAR:.12f}", MAX_COST // PER_DOLLAR
            raise InvalidInput(f"{field}.cost_usd", f"must lie between {least} and {most}")
        if not 0 < limit.warn_at <= 1:
            raise InvalidInput(f"{field}.warn_at", "must be a share: above 0, at most 1")
        found[limit.window] = limit
    return tuple(found[span] for span in SPANS if span in found)
