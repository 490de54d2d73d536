"""Validation of the limits of a thread or a tenant."""

from collections.abc import Iterable

from domain.errors import InvalidInput
from domain.money import PER_DOLLAR
from domain.thread.events import Limit
from domain.windows import SPANS, Span

MAX_TOKENS = 10**15
"""The highest limit of tokens: JSON parsers that read numbers as doubles read it exactly."""

MAX_COST = 1_000_000 * PER_DOLLAR
"""The highest limit of money: a million dollars, in units."""


def check_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Validate limits and sort them by window. A limit of 0 is invalid: every window would begin exceeded.

    Raises:
        InvalidInput: its field names the limit, such as `limits.0`.
    """
    found: dict[Span, Limit] = {}
    for index, limit in enumerate(limits):
        field = f"limits.{index}"
        if limit.window in found:
            raise InvalidInput(f"{field}.window", f"duplicate limit for {limit.window}")
        if limit.tokens is None and limit.cost is None:
            raise InvalidInput(field, "needs tokens, cost_usd or both; to lift the budget, send no limits")
        if limit.tokens is not None and not 1 <= limit.tokens <= MAX_TOKENS:
            raise InvalidInput(f"{field}.tokens", f"must be between 1 and {MAX_TOKENS}")
        if limit.cost is not None and not 1 <= limit.cost <= MAX_COST:
            least, most = f"{1 / PER_DOLLAR:.12f}", MAX_COST // PER_DOLLAR
            raise InvalidInput(f"{field}.cost_usd", f"must be between {least} and {most}")
        if not 0 < limit.warn_at <= 1:
            raise InvalidInput(f"{field}.warn_at", "must be greater than 0 and at most 1")
        found[limit.window] = limit
    return tuple(found[span] for span in SPANS if span in found)
