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


def _completed(context: EventContext[NodeCompleted]) -> Iterable[Change]:
    return _ended(context, completed=1)


def _failed(context: EventContext[NodeFailed]) -> Iterable[Change]:
    return _ended(context, failed=1) if context.event.retry_in_ms is None else _ended(context, retried=1)


def _ended(context: EventContext[NodeCompleted] | EventContext[NodeFailed], **counted: int) -> Iterable[Change]:
    node, graph, took = context.event.node, context.graph, context.event.duration_ms
    row = NODES.row(tenant=context.tenant, hour=context.hour, graph=graph, node=node, duration_ms=took, **counted)
    return [(NODES, row), *timed(LATENCY, context, took, graph, node)]


PROJECTION = Projection("nodes", 1, (NODES, LATENCY), {NodeCompleted: _completed, NodeFailed: _failed})
