"""What a thread may spend, held against what it has: in the windows of time that an instant lies in."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from domain.budget.prices import Prices
from domain.thread.events import Limit
from domain.thread.state import ModelUsage, Running, Thread
from domain.windows import WINDOWS, Window, start_of


def instant_of(thread: Thread, at: datetime) -> datetime:
    """Return the instant whose windows count for a thread at `at`: not before the windows of its last model call.

    A process whose clock was ahead may have written that call, and every later event of the thread has its time at
    least. By the right clock nothing would be spent in a thread like that, and its budget would limit nothing.
    """
    return max([at, *[used.start for used in thread.windows]])


def used_in(thread: Thread, window: Window, at: datetime) -> Sequence[ModelUsage]:
    """Return what was used of each model in the window that counts for a thread at an instant; see `instant_of`."""
    if window == "lifetime":
        return thread.usage
    start = start_of(window, instant_of(thread, at))
    return next((used.usage for used in thread.windows if (used.window, used.start) == (window, start)), ())


def tokens_of(usage: Iterable[ModelUsage]) -> int:
    """Count tokens of prompts and answers."""
    return sum(used.prompt_tokens + used.completion_tokens for used in usage)


def is_reached(limit: Limit, usage: Sequence[ModelUsage], prices: Prices) -> bool:
    """Say whether nothing is left of a limit, in tokens or in money."""
    if limit.tokens is not None and tokens_of(usage) >= limit.tokens:
        return True
    return limit.cost is not None and prices.of_all(usage) >= limit.cost


class ReachedLimit(Struct, frozen=True):
    """A limit of which nothing is left in its window."""

    limit: Limit
    window: Window


def reached_limit(thread: Thread, at: datetime, prices: Prices) -> ReachedLimit | None:
    """Return the limit that is reached at an instant; of several, the one whose window ends last. None: none is.

    A limit for each turn is none of the thread's: the next turn begins anew.
    """
    found = None
    for window in WINDOWS:
        limit = next((limit for limit in thread.limits if limit.window == window), None)
        if limit is not None and is_reached(limit, used_in(thread, window, at), prices):
            found = ReachedLimit(limit, window)
    return found


SPARING = 0.5
"""The share of the context window, and of an answer, that is used once most of a budget is spent."""

MIN_COMPLETION_TOKENS = 64
"""Tokens of an answer with less of which a call is not worth its prompt."""


class PlannedCall(Struct, frozen=True):
    """A call that is about to be made: its model, the tokens of its prompt, and of its answer at most."""

    model: str
    prompt_tokens: int
    max_completion_tokens: int


class Shortage(Struct, frozen=True):
    """What keeps a call from being made: a limit, and what is spent of it already, in its own words."""

    limit: Limit
    tokens: int
    cost: int


def worst_case_of(call: PlannedCall, prices: Prices) -> tuple[int, int]:
    """Return the most that a call can take: tokens, and money."""
    return call.prompt_tokens + call.max_completion_tokens, prices.cost(
        call.model, call.prompt_tokens, call.max_completion_tokens
    )


def spent_of(state: Running, limit: Limit, model: str, at: datetime, prices: Prices) -> tuple[int, int]:
    """Return what a turn's thread has spent of a limit, on one model or on all (""): tokens, and money."""
    usage = state.turn.usage if limit.window == "turn" else used_in(state.thread, limit.window, at)
    usage = [used for used in usage if model in {"", used.model}]
    return tokens_of(usage), prices.of_all(usage)


def strained(limit: Limit, tokens: int, cost: int) -> bool:
    """Say whether the share `warn_at` of a limit is spent."""
    if limit.tokens is not None and tokens >= limit.warn_at * limit.tokens:
        return True
    return limit.cost is not None and cost >= limit.warn_at * limit.cost


def affordable(limit: Limit, tokens: int, cost: int, call: PlannedCall, prices: Prices) -> int:
    """Return the tokens that an answer may have, if so much is spent of a limit: at most what the call asks for."""
    answer = call.max_completion_tokens
    if limit.tokens is not None:
        answer = min(answer, limit.tokens - tokens - call.prompt_tokens)
    if limit.cost is not None:
        rest = limit.cost - cost - prices.cost(call.model, call.prompt_tokens, 0)
        unit = prices.cost(call.model, 0, 1)
        answer = min(answer, rest // unit if unit else (answer if rest >= 0 else -1))
    return answer


def shortage(
    state: Running,
    limits: Sequence[tuple[Limit, str]],
    at: datetime,
    call: PlannedCall,
    prices: Prices,
    held: tuple[int, int],
) -> tuple[int, Shortage | None]:
    """Return the tokens that limits leave to an answer, and the one that leaves too little for any. Each has its model.

    `held` is what other calls of this turn may take that run at the same time.
    """
    answer = call.max_completion_tokens
    for limit, model in limits:
        tokens, cost = spent_of(state, limit, model, at, prices)
        left = affordable(limit, tokens + held[0], cost + held[1], call, prices)
        if left < min(MIN_COMPLETION_TOKENS, call.max_completion_tokens):
            return 0, Shortage(limit, tokens, cost)
        answer = min(answer, left)
    return answer, None
