"""Tools, by the hour: how often they were requested, the outcomes, and their durations."""

from collections.abc import Iterable, Mapping
from typing import Any

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread import events
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


COUNTED: Mapping[type[events.Event], str] = {**events.CALL_OUTCOMES, events.ApprovalGranted: "granted"}
"""The columns that count events about open calls."""


def _requested(context: EventContext[events.ToolRequested]) -> Iterable[Change]:
    return [_row(context, context.event.tool, requested=1)]


def _started(context: EventContext[events.ToolStarted]) -> Iterable[Change]:
    tool = context.tool_of(context.event.call)
    return [_row(context, tool, started=1, retried=int(context.event.attempt > 1))] if tool is not None else ()


def _ended(context: EventContext[Any]) -> Iterable[Change]:
    event = context.event
    tool = context.tool_of(event.approval if hasattr(event, "approval") else event.call)
    if tool is None:
        return ()
    counted = {COUNTED[type(event)]: 1}
    took = getattr(event, "duration_ms", None)
    if took is None:
        return [_row(context, tool, **counted)]
    return [_row(context, tool, duration_ms=took, **counted), *timed(LATENCY, context, took, context.graph, tool)]


def _row(context: EventContext[Any], tool: str, **counted: int) -> Change:
    return TOOLS, TOOLS.row(tenant=context.tenant, hour=context.hour, graph=context.graph, tool=tool, **counted)


PROJECTION = Projection(
    "tools",
    1,
    (TOOLS, LATENCY),
    {events.ToolRequested: _requested, events.ToolStarted: _started, **dict.fromkeys(COUNTED, _ended)},
)
