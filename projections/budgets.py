"""The read model of spending: tokens and money by thread and model, in each hour, day and month, and in total."""

from collections.abc import Iterable
from functools import partial

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import ModelCalled
from projections.engine.projection import EventContext, Projection
from projections.engine.spending_columns import IN_DOLLARS, PRIVATE, SAVED, USED, spending

BUDGETS = Table(
    "budgets",
    "Tokens and money that each thread has spent on each model",
    (
        Column("start", "timestamptz", "key", "Where the window begins; 1970 for `lifetime`."),
        Column("calls", "bigint", "add", "How often a model answered."),
        *USED,
        *SAVED,
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread that spent it."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("window", "text", "key", "hour, day, month or lifetime."),
        Column("model", "text", "key", "The model that it was spent on."),
        Column("graph", "text", about="The thread's agent."),
        Column("subject", "text", about="The customer that the thread is about; empty if none was given."),
    ),
    (Index(("tenant", "window", "start")), Index(("tenant", "subject", "window", "start"))),
    private=PRIVATE,
    derived=IN_DOLLARS,
)


def _spent(context: EventContext[ModelCalled]) -> Iterable[Change]:
    thread = context.after.thread  # type: ignore[union-attr]  # after an event, the thread is open
    own = {"slice": context.slice, "thread_id": context.thread_id, "tenant": context.tenant}
    own |= {"graph": context.graph, "subject": thread.subject}
    row = partial(BUDGETS.row, calls=1, model=context.event.model, **own, **spending(context))
    return [(BUDGETS, row(window=window, start=start)) for window, start in context.starts.items()]


PROJECTION = Projection("budgets", 4, (BUDGETS,), {ModelCalled: _spent})
