"""How tools do, by the hour: how often they were asked for, how that ended, and how long they took."""

from collections.abc import Iterable

from domain.events import (
    ApprovalDenied,
    ApprovalGranted,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
)
from domain.state import Running
from domain.tables import Change, Column, Index, Table
from projections.latency import latency_table, timed
from projections.projection import Projection, Seen

TOOLS = Table(
    "tools",
    "How tools do, by the hour",
    (
        Column("hour", "timestamptz", "key", "The hour that it happened in."),
        Column("requested", "bigint", "add", "Calls that an agent asked for."),
        Column("granted", "bigint", "add", "Calls that a person agreed to."),
        Column("denied", "bigint", "add", "Calls that a person refused."),
        Column("started", "bigint", "add", "Attempts that began."),
        Column("retried", "bigint", "add", "Those of them that were not a call's first."),
        Column("succeeded", "bigint", "add", "Calls that ended well."),
        Column("failed", "bigint", "add", "Calls that could not do what was asked."),
        Column("unknown", "bigint", "add", "Calls whose process died, so that nobody knows."),
        Column("duration_ms", "bigint", "add", "Milliseconds that calls took, together."),
        Column("tenant", "text", "key", "Whose threads asked."),
        Column("graph", "text", "key", "The agent's graph."),
        Column("tool", "text", "key", "The tool."),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("tools_latency", "How long calls of tools took", ("graph", "tool"))


def _counted(seen: Seen) -> Iterable[Change]:
    match seen.recorded.event:
        case ToolRequested(tool=tool):
            yield from _row(seen, tool, requested=1)
        case ToolStarted(call=call, attempt=attempt):
            yield from _row(seen, _tool(seen, call), started=1, retried=int(attempt > 1))
        case ToolSucceeded(call=call, duration_ms=duration_ms):
            yield from _row(seen, _tool(seen, call), duration_ms, succeeded=1)
        case ToolFailed(call=call, duration_ms=duration_ms):
            yield from _row(seen, _tool(seen, call), duration_ms, failed=1)
        case ToolOutcomeUnknown(call=call):
            yield from _row(seen, _tool(seen, call), unknown=1)
        case ApprovalGranted(approval=call):
            yield from _row(seen, _tool(seen, call), granted=1)
        case ApprovalDenied(approval=call):
            yield from _row(seen, _tool(seen, call), denied=1)


def _tool(seen: Seen, version: int) -> str | None:
    """Name the tool of an open call; None if the version is that of a node's approval."""
    if not isinstance(seen.before, Running):
        return None
    return next((call.request.name for call in seen.before.turn.calls if call.version == version), None)


def _row(seen: Seen, tool: str | None, duration_ms: int | None = None, **counted: int) -> Iterable[Change]:
    if tool is None:
        return
    of = {"tenant": seen.tenant, "hour": seen.hour, "graph": seen.graph, "tool": tool}
    yield TOOLS, TOOLS.row(**of, **counted, duration_ms=duration_ms or 0)
    if duration_ms is not None:
        yield from timed(LATENCY, seen, duration_ms, graph=seen.graph, tool=tool)


PROJECTION = Projection(
    "tools",
    1,
    (TOOLS, LATENCY),
    dict.fromkeys(
        (ToolRequested, ToolStarted, ToolSucceeded, ToolFailed, ToolOutcomeUnknown, ApprovalGranted, ApprovalDenied),
        _counted,
    ),
)
