"""Nodes of graphs, by the hour: how often they ran, failed and were retried, and their durations."""

from collections.abc import Iterable

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import NodeCompleted, NodeFailed
from projections.engine.latency_columns import latency_table, timed
from projections.engine.projection import EventContext, Projection

NODES = Table(
    "nodes",
    "How the nodes of the graphs do, by the hour",
    (
        Column("hour", "timestamptz", "key", "The hour that they ended in."),
        Column("completed", "bigint", "add", "Nodes that ended well."),
        Column("failed", "bigint", "add", "Nodes that failed for good."),
        Column("retried", "bigint", "add", "Attempts that failed and were followed by another one."),
        Column("duration_ms", "bigint", "add", "Milliseconds that all attempts took, together."),
        Column("tenant", "text", "key", "Whose threads they ran in."),
        Column("graph", "text", "key", "The agent's graph."),
        Column("node", "text", "key", "The node."),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("nodes_latency", "How long attempts of nodes took", ("graph", "node"))


def _ended(context: EventContext[NodeCompleted] | EventContext[NodeFailed]) -> Iterable[Change]:
    event, graph, counted = context.event, context.graph, "completed"
    if isinstance(event, NodeFailed):
        counted = "failed" if event.retry_in_ms is None else "retried"
    node, took = event.node, event.duration_ms
    row = NODES.row(tenant=context.tenant, hour=context.hour, graph=graph, node=node, duration_ms=took, **{counted: 1})
    return [(NODES, row), *timed(LATENCY, context, took, graph, node)]


PROJECTION = Projection("nodes", 1, (NODES, LATENCY), {NodeCompleted: _ended, NodeFailed: _ended})
