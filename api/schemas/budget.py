"""Answers about a thread's budget: its limits, and what is spent in the windows of an instant."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from msgspec import Struct

from api.schemas.view import view_of
from domain.application.command_handler import checkpoint_of
from domain.application.thread_repository import LoadedThread
from domain.budget.limits import amount_of, exceeded_limit, instant_of, is_exceeded, used_in
from domain.budget.prices import Prices
from domain.money import dollars
from domain.ports.ledger import Amount
from domain.thread.events import Limit
from domain.thread.state import ModelUsage, Thread, Unopened
from domain.windows import WINDOWS, Span, Window, end_of, start_of


class LimitView(Struct, frozen=True):
    """What may be spent in a window, or by each turn; null: not limited. `warn_at`: the warning threshold, a share."""

    window: Span
    tokens: int | None
    cost_usd: float | None
    warn_at: float

    @classmethod
    def of(cls, limit: Limit) -> Self:
        """Show a limit, its money in dollars."""
        return cls(limit.window, limit.tokens, None if limit.cost is None else dollars(limit.cost), limit.warn_at)


class ModelSpending(Struct, frozen=True):
    """What is spent on one model."""

    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    tokens: int
    cost_usd: float
    cached_tokens: int

    @classmethod
    def of(cls, used: ModelUsage, prices: Prices) -> Self:
        """Show and price what was used of a model."""
        tokens = used.prompt_tokens + used.completion_tokens
        return view_of(cls, used, tokens=tokens, cost_usd=dollars(prices.of_all([used])))


class Left(Struct, frozen=True):
    """What is left of a limit; null: the limit does not bound it."""

    tokens: int | None
    cost_usd: float | None

    @classmethod
    def of(cls, limit: Limit, taken: Amount) -> Self:
        """Show what is left of a limit of which so much is spent and reserved."""
        return cls(
            None if limit.tokens is None else max(limit.tokens - taken.tokens, 0),
            None if limit.cost is None else dollars(max(limit.cost - taken.cost, 0)),
        )


class WindowSpending(Struct, frozen=True):
    """What is spent in a window, from `start` (inclusive) to `end` (exclusive); both are null for `lifetime`.

    `left` is null if the window has no limit. `over`: nothing is left of the limit.
    """

    window: Window
    start: datetime | None
    end: datetime | None
    tokens: int
    cost_usd: float
    models: Sequence[ModelSpending]
    left: Left | None
    over: bool


class BudgetView(Struct, frozen=True):
    """A thread's budget after a version, in the windows that the instant `at` lies in.

    `at` is now, or the start of the last window with a model call if that is later: a process's clock was ahead.

    `over`: nothing is left of a limit. `until` is the end of the last window in which that is so; null if the thread is
    not over its budget, or only a new budget ends it.
    """

    thread_id: UUID
    version: int
    checkpoint: str
    at: datetime
    limits: Sequence[LimitView]
    windows: Sequence[WindowSpending]
    over: bool
    until: datetime | None


def budget_view(loaded: LoadedThread, at: datetime, prices: Prices) -> BudgetView:
    """Show a folded thread's budget at an instant.

    Raises:
        TypeError: the thread was never opened.
    """
    if isinstance(loaded.state, Unopened):
        raise TypeError("An unopened thread has no budget")
    thread = loaded.state.thread
    at = instant_of(thread, at)
    limits: dict[Span, Limit] = {limit.window: limit for limit in thread.limits}
    shown = {*limits, "lifetime"}
    over = exceeded_limit(thread, at, prices)
    return BudgetView(
        thread_id=loaded.thread_id,
        version=loaded.head.version,
        checkpoint=checkpoint_of(loaded),
        at=at,
        limits=[LimitView.of(limit) for limit in thread.limits],
        windows=[_window(thread, window, limits.get(window), at, prices) for window in WINDOWS if window in shown],
        over=over is not None,
        until=end_of(over.window, at) if over else None,
    )


def _window(thread: Thread, window: Window, limit: Limit | None, at: datetime, prices: Prices) -> WindowSpending:
    usage, end = used_in(thread, window, at), end_of(window, at)
    spent = amount_of(usage, prices)
    return WindowSpending(
        window=window,
        start=start_of(window, at) if end else None,
        end=end,
        tokens=spent.tokens,
        cost_usd=dollars(spent.cost),
        models=[ModelSpending.of(used, prices) for used in sorted(usage, key=lambda used: used.model)],
        left=Left.of(limit, spent) if limit else None,
        over=limit is not None and is_exceeded(limit, spent),
    )
