"""How turns do, by the hour: how many began, how they ended and why, and their durations."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread import events
from domain.thread.state import Running
from projections.engine.latency_columns import latency_table, timed
from projections.engine.projection import EventContext, Projection

TURNS = Table(
    "turns",
    "How turns do, by the hour",
    (
        Column("hour", "timestamptz", "key", "The hour that it happened in."),
        Column("started", "bigint", "add", "Turns that began."),
        Column("retried", "bigint", "add", "Those of them that go on with an earlier one."),
        Column("resumed", "bigint", "add", "How often a worker went on with a turn that another one had left."),
        Column("completed", "bigint", "add", "Turns with an answer."),
        Column("failed", "bigint", "add", "Turns that the agent gave up."),
        Column("cancelled", "bigint", "add", "Turns that were ended from outside."),
        Column("rolled_back", "bigint", "add", "Turns that were undone."),
        Column("duration_ms", "bigint", "add", "Milliseconds from their beginning to their end, together."),
        Column("tenant", "text", "key", "Whose threads they are of."),
        Column("graph", "text", "key", "The agent's graph."),
        Column("reason", "text", "key", "Why they failed or were cancelled, or what their answers lack; else empty."),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("turns_latency", "How long turns took", ("graph", "reason"))


def _started(context: EventContext[events.TurnStarted]) -> Iterable[Change]:
    return [_row(context, started=1, retried=int(context.event.retries is not None))]


def _resumed(context: EventContext[events.TurnResumed]) -> Iterable[Change]:
    return [_row(context, resumed=1)]


def _ended(context: EventContext[events.TurnEnd]) -> Iterable[Change]:
    event, before, began = context.event, context.before, context.turn_started_at
    counted = {events.TURN_OUTCOMES[type(event)]: 1}
    reason = (event.how if isinstance(event, events.TurnCancelled) else getattr(event, "reason", None)) or ""
    if not isinstance(before, Running) or before.turn.turn_id != event.turn_id or began is None:
        return [_row(context, reason, **counted)]  # it was queued, and never began
    took = (context.at - began) // timedelta(milliseconds=1)
    return [_row(context, reason, **counted, duration_ms=took), *timed(LATENCY, context, took, context.graph, reason)]


def _row(context: EventContext[Any], reason: str = "", **counted: int) -> Change:
    return TURNS, TURNS.row(tenant=context.tenant, hour=context.hour, graph=context.graph, reason=reason, **counted)


PROJECTION = Projection(
    "turns",
    1,
    (TURNS, LATENCY),
    {events.TurnStarted: _started, events.TurnResumed: _resumed, **dict.fromkeys(events.TURN_OUTCOMES, _ended)},
)
