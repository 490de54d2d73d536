"""The read model of spending: tokens and money by thread and model, in each hour, day and month, and in total."""

from collections.abc import Iterable

from domain.read_models.tables import COST, Change, Column, Index, Table
from domain.thread.events import ModelCalled
from projections.engine.projection import EventContext, Projection
from projections.engine.savings_columns import CACHED_TOKENS, SAVED_COST, SAVED_TOKENS, SAVED_USD, saved

BUDGETS = Table(
    "budgets",
    "Tokens and money that each thread has spent on each model",
    (
        Column("start", "timestamptz", "key", "Where the window begins; 1970 for `lifetime`."),
        Column("calls", "bigint", "add", "How often a model answered."),
        Column("prompt_tokens", "bigint", "add", "Tokens of the prompts."),
        Column("completion_tokens", "bigint", "add", "Tokens of the answers."),
        CACHED_TOKENS,
        Column("cost", "bigint", "add", "What they cost, in millionths of a millionth of a dollar."),
        SAVED_TOKENS,
        SAVED_COST,
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread that spent it."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("window", "text", "key", "hour, day, month or lifetime."),
        Column("model", "text", "key", "The model that it was spent on."),
    ),
    (Index(("tenant", "window", "start")),),
    private=frozenset({"slice", "cost", "saved_cost"}),
    derived=(COST, SAVED_USD),
)


def _spent(seen: EventContext[ModelCalled]) -> Iterable[Change]:
    event = seen.event
    cost = seen.prices.of_call(event)
    saved_tokens, saved_cost = saved(seen)
    for window, start in seen.starts.items():
        row = BUDGETS.row(
            start=start,
            calls=1,
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            cached_tokens=event.cached,
            cost=cost,
            saved_tokens=saved_tokens,
            saved_cost=saved_cost,
            slice=seen.slice,
            thread_id=seen.thread_id,
            tenant=seen.tenant,
            window=window,
            model=event.model,
        )
        yield BUDGETS, row


PROJECTION = Projection("budgets", 3, (BUDGETS,), {ModelCalled: _spent})
