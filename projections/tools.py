"""Tools, by the hour: how often they were requested, the outcomes, and their durations."""

from collections.abc import Iterable, Sequence
from typing import Any

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread import events
from domain.thread.state import Running
from projections.engine.latency_columns import latency_table, timed
from projections.engine.projection import EventContext, Projection

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
        Column("unknown", "bigint", "add", "Calls whose process died; their outcome is unknown."),
        Column("duration_ms", "bigint", "add", "Milliseconds that calls took, together."),
        Column("tenant", "text", "key", "Whose threads asked."),
        Column("graph", "text", "key", "The agent's graph."),
        Column("tool", "text", "key", "The tool."),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("tools_latency", "How long calls of tools took", ("graph", "tool"))


def _requested(context: EventContext[events.ToolRequested]) -> Iterable[Change]:
    return _counted(context, context.event.tool, requested=1)


def _started(context: EventContext[events.ToolStarted]) -> Iterable[Change]:
    return _counted(context, _tool(context, context.event.call), started=1, retried=int(context.event.attempt > 1))


def _succeeded(context: EventContext[events.ToolSucceeded]) -> Iterable[Change]:
    return _ended(context, succeeded=1)


def _failed(context: EventContext[events.ToolFailed]) -> Iterable[Change]:
    return _ended(context, failed=1)


def _lost(context: EventContext[events.ToolOutcomeUnknown]) -> Iterable[Change]:
    return _counted(context, _tool(context, context.event.call), unknown=1)


def _granted(context: EventContext[events.ApprovalGranted]) -> Iterable[Change]:
    return _counted(context, _tool(context, context.event.approval), granted=1)


def _denied(context: EventContext[events.ApprovalDenied]) -> Iterable[Change]:
    return _counted(context, _tool(context, context.event.approval), denied=1)


def _tool(context: EventContext[Any], version: int) -> str | None:
    """Return the tool of an open call; None if the version is that of a node's approval."""
    if not isinstance(context.before, Running):
        return None
    return next((call.request.name for call in context.before.turn.calls if call.version == version), None)


def _counted(context: EventContext[Any], tool: str | None, **counted: int) -> Sequence[Change]:
    if tool is None:
        return ()
    return [(TOOLS, TOOLS.row(tenant=context.tenant, hour=context.hour, graph=context.graph, tool=tool, **counted))]


def _ended(
    context: EventContext[events.ToolSucceeded] | EventContext[events.ToolFailed], **counted: int
) -> Iterable[Change]:
    tool, took = _tool(context, context.event.call), context.event.duration_ms
    if tool is None:
        return ()
    return [
        *_counted(context, tool, duration_ms=took, **counted),
        *timed(LATENCY, context, took, context.graph, tool),
    ]


PROJECTION = Projection(
    "tools",
    1,
    (TOOLS, LATENCY),
    {
        events.ToolRequested: _requested,
        events.ToolStarted: _started,
        events.ToolSucceeded: _succeeded,
        events.ToolFailed: _failed,
        events.ToolOutcomeUnknown: _lost,
        events.ApprovalGranted: _granted,
        events.ApprovalDenied: _denied,
    },
)
