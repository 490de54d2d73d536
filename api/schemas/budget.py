"""A thread's budget: its limits, and what was spent in the windows of time that an instant lies in."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from msgspec import Struct

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
    """What may be spent in a window, or by a turn; null: as much as one likes. From `warn_at` on, sparingly."""

    window: Span
    tokens: int | None
    cost_usd: float | None
    warn_at: float

    @classmethod
    def of(cls, limit: Limit) -> Self:
        """Show a limit in dollars."""
        return cls(limit.window, limit.tokens, None if limit.cost is None else dollars(limit.cost), limit.warn_at)


class ModelSpending(Struct, frozen=True):
    """What was spent on one model."""

    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    tokens: int
    cost_usd: float
    cached_tokens: int

    @classmethod
    def of(cls, used: ModelUsage, prices: Prices) -> Self:
        """Price what was used."""
        return cls(
            model=used.model,
            calls=used.calls,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            tokens=used.prompt_tokens + used.completion_tokens,
            cost_usd=dollars(prices.of_all([used])),
            cached_tokens=used.cached_tokens,
        )


class Left(Struct, frozen=True):
    """What is left of a limit; null: it does not limit that."""

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
    """What was spent in a window, from `start` (included) to `end` (excluded); both are null for `lifetime`.

    `left` is null if nothing limits what is spent in it.
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

    `at` is now, or where the last window with a model call began, if that is later: after a clock that was ahead.

    It is `over` if nothing is left of a limit, `until` the last window in which that is so ends; null: until the
    budget is set anew, if it is over at all.
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

    Raise `TypeError` if it was never opened.
    """
    if isinstance(loaded.state, Unopened):
        raise TypeError("An unopened thread has no budget to show")
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
