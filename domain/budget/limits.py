"""The rules of every budget: the limits of a thread, those for each turn, and those in the ledger.

The worst case of a model call is reserved before the call, and what it took is settled after it. What is spent and
reserved of a limit never passes the limit, unless an endpoint counts more than the worst case.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from fractions import Fraction
from functools import lru_cache

from msgspec import Struct

from domain.budget.prices import Prices
from domain.ports.ledger import Amount, LimitUsage, Scope, ScopeLimits
from domain.thread.events import Limit, ModelCalled
from domain.thread.state import ModelUsage, Thread, Turn
from domain.windows import EVER, WINDOWS, Window, start_of, starts_of

SPARING = 0.5
"""The share of the context window, and of a completion, that is used once a limit's warning threshold is reached."""

MIN_COMPLETION_TOKENS = 64
"""A call whose completion would have to be shorter is not worth its prompt."""


class PlannedCall(Struct, frozen=True):
    """A model call that is about to be made."""

    model: str
    prompt_tokens: int
    max_completion_tokens: int


def is_exceeded(limit: Limit, spent: Amount) -> bool:
    """Say whether nothing is left of a limit, in tokens or in money."""
    return (limit.tokens is not None and spent.tokens >= limit.tokens) or (
        limit.cost is not None and spent.cost >= limit.cost
    )


def is_warned(limit: Limit, spent: Amount) -> bool:
    """Say whether a limit's warning threshold is reached: its share `warn_at`, exactly as it is written in decimal."""
    numerator, denominator = _ratio(limit.warn_at)
    return (limit.tokens is not None and spent.tokens * denominator >= numerator * limit.tokens) or (
        limit.cost is not None and spent.cost * denominator >= numerator * limit.cost
    )


@lru_cache(maxsize=128)  # few shares are in use, and parsing one takes longer than the comparison
def _ratio(share: float) -> tuple[int, int]:
    return Fraction(repr(share)).as_integer_ratio()


def fits(limit: Limit, amount: Amount) -> bool:
    """Say whether an amount lies within a limit."""
    return (limit.tokens is None or amount.tokens <= limit.tokens) and (limit.cost is None or amount.cost <= limit.cost)


def worst_case(call: PlannedCall, prices: Prices) -> Amount:
    """Return the most that a call can take: its prompt, and a completion of the maximum length."""
    prompt, completion = call.prompt_tokens, call.max_completion_tokens
    return Amount(prompt + completion, prices.cost(call.model, prompt, completion))


def affordable(limit: Limit, taken: Amount, call: PlannedCall, prices: Prices) -> int:
    """Return the longest completion whose worst case fits into what is left, in tokens: at most the call's maximum.

    `taken` is what is spent and reserved of the limit. A negative result means that not even the prompt fits.
    """
    completion = call.max_completion_tokens
    if limit.tokens is not None:
        completion = min(completion, limit.tokens - taken.tokens - call.prompt_tokens)
    if limit.cost is not None:
        left = limit.cost - taken.cost - prices.cost(call.model, call.prompt_tokens, 0)
        token = prices.cost(call.model, 0, 1)
        if token:
            completion = min(completion, left // token)
        elif left < 0:
            completion = min(completion, -1)
    return completion


def is_limited(limits: Iterable[ScopeLimits], agent: str, model: str, subject: str = "") -> bool:
    """Say whether the ledger counts calls of an agent and a model about a subject: limits for a turn need no ledger."""
    return any(
        given.scope.counts(agent, model, subject=subject) and any(limit.window != "turn" for limit in given.limits)
        for given in limits
    )


def spent_by(called: ModelCalled, prices: Prices) -> Amount:
    """Return what a call has taken."""
    return Amount(called.prompt_tokens + called.completion_tokens, prices.of_call(called))


def amount_of(usage: Sequence[ModelUsage], prices: Prices) -> Amount:
    """Add up what was used of several models."""
    return Amount(sum(used.prompt_tokens + used.completion_tokens for used in usage), prices.of_all(usage))


def instant_of(thread: Thread, at: datetime) -> datetime:
    """Return the instant whose windows count for a thread at `at`: not before the windows of its last model call.

    A process whose clock was ahead may have written that call, and no later event of the thread has an earlier time.
    By the right clock nothing would be spent in such a thread, and its budget would limit nothing.
    """
    return max([at, *[used.start for used in thread.windows]])


def used_in(thread: Thread, window: Window, at: datetime) -> Sequence[ModelUsage]:
    """Return what was used of each model in the window that counts for a thread at an instant; see `instant_of`."""
    return _used_since(thread, window, start_of(window, instant_of(thread, at)))


def _used_since(thread: Thread, window: Window, start: datetime) -> Sequence[ModelUsage]:
    if window == "lifetime":
        return thread.usage
    return next((used.usage for used in thread.windows if (used.window, used.start) == (window, start)), ())


def limit_usage(limits: Iterable[Limit], thread: Thread, at: datetime, prices: Prices) -> Sequence[LimitUsage]:
    """Return how a thread's limits stand at an instant, except those for each turn."""
    starts = starts_of(instant_of(thread, at))
    spans = [(limit, limit.window, starts[limit.window]) for limit in limits if limit.window != "turn"]
    return [
        LimitUsage(None, limit, start, amount_of(_used_since(thread, w, start), prices)) for limit, w, start in spans
    ]


def turn_limit_usage(scope: Scope | None, limits: Iterable[Limit], turn: Turn, prices: Prices) -> Sequence[LimitUsage]:
    """Return how a scope's limits for each turn stand in a turn. They have no window: it begins at `EVER`."""
    usage = [used for used in turn.usage if scope is None or scope.model in {"", used.model}]
    return [LimitUsage(scope, limit, EVER, amount_of(usage, prices)) for limit in limits if limit.window == "turn"]


def exceeded_limit(thread: Thread, at: datetime, prices: Prices) -> LimitUsage | None:
    """Return the thread's limit that is exceeded at an instant; of several, the one whose window ends last."""
    found = [usage for usage in limit_usage(thread.limits, thread, at, prices) if is_exceeded(usage.limit, usage.spent)]
    return max(found, key=lambda usage: WINDOWS.index(usage.window), default=None)
