"""How the nodes of the graphs do, by the hour: how often they ran, failed and were tried again, and how long."""

from collections.abc import Iterable

from domain.events import NodeCompleted, NodeFailed
from domain.tables import Change, Column, Index, Table
from projections.latency import latency_table, timed
from projections.projection import Projection, Seen

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


def _ended(seen: Seen) -> Iterable[Change]:
    match seen.recorded.event:
        case NodeCompleted(node=node, duration_ms=duration_ms):
            counted = {"completed": 1}
        case NodeFailed(node=node, duration_ms=duration_ms, retry_in_ms=retry_in_ms):
            counted = {"failed" if retry_in_ms is None else "retried": 1}
        case _:
            return
    of = {"tenant": seen.tenant, "hour": seen.hour, "graph": seen.graph, "node": node}
    yield NODES, NODES.row(**of, **counted, duration_ms=duration_ms)
    yield from timed(LATENCY, seen, duration_ms, graph=seen.graph, node=node)


PROJECTION = Projection("nodes", 1, (NODES, LATENCY), {NodeCompleted: _ended, NodeFailed: _ended})
