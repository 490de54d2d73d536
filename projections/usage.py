"""Model calls, by the hour: their number, tokens, cost and durations."""

from collections.abc import Iterable

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import ModelCalled
from projections.engine.latency_columns import latency_table, timed
from projections.engine.projection import EventContext, Projection
from projections.engine.spending_columns import IN_DOLLARS, PRIVATE, SAVED, USED, spending

USAGE = Table(
    "usage",
    "What was asked of models, by the hour",
    (
        Column("hour", "timestamptz", "key", "The hour that the answers came in."),
        Column("calls", "bigint", "add", "How often a model answered."),
        Column("estimated", "bigint", "add", "Calls whose tokens are our count, since the endpoint reported none."),
        *USED,
        Column("duration_ms", "bigint", "add", "Milliseconds that the answers took, together."),
        *SAVED,
        Column("tenant", "text", "key", "Whose threads asked."),
        Column("graph", "text", "key", "The agent's graph."),
        Column("node", "text", "key", "The node that asked."),
        Column("model", "text", "key", "The model."),
    ),
    (Index(("tenant", "hour")),),
    private=PRIVATE,
    derived=IN_DOLLARS,
)
LATENCY = latency_table("usage_latency", "How long models took to answer", ("graph", "node", "model"))


def _called(context: EventContext[ModelCalled]) -> Iterable[Change]:
    event, graph, node = context.event, context.graph, context.node
    row = USAGE.row(
        tenant=context.tenant,
        hour=context.hour,
        graph=graph,
        node=node,
        model=event.model,
        calls=1,
        estimated=int(event.estimated),
        duration_ms=event.duration_ms,
        **spending(context),
    )
    return [(USAGE, row), *timed(LATENCY, context, event.duration_ms, graph, node, event.model)]


PROJECTION = Projection("usage", 3, (USAGE, LATENCY), {ModelCalled: _called})
