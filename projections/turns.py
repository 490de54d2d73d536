"""How turns do, by the hour: how many began, how they ended and why, and how long they took."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import TurnCancelled, TurnCompleted, TurnFailed, TurnResumed, TurnRolledBack, TurnStarted
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
        Column(
            "reason",
            "text",
            "key",
            "Why they failed or were cancelled, or what their answers lack; else empty.",
        ),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("turns_latency", "How long turns took", ("graph", "reason"))


def _started(seen: EventContext[TurnStarted]) -> Iterable[Change]:
    return [_row(seen, started=1, retried=int(seen.event.retries is not None))]


def _resumed(seen: EventContext[TurnResumed]) -> Iterable[Change]:
    return [_row(seen, resumed=1)]


def _completed(seen: EventContext[TurnCompleted]) -> Iterable[Change]:
    return _ended(seen, seen.event.reason or "", completed=1)


def _failed(seen: EventContext[TurnFailed]) -> Iterable[Change]:
    return _ended(seen, seen.event.reason, failed=1)


def _cancelled(seen: EventContext[TurnCancelled]) -> Iterable[Change]:
    return _ended(seen, seen.event.how, cancelled=1)


def _rolled_back(seen: EventContext[TurnRolledBack]) -> Iterable[Change]:
    return _ended(seen, rolled_back=1)


def _ended(seen: EventContext[Any], reason: str = "", **counted: int) -> Iterable[Change]:
    before, began = seen.before, seen.turn_started_at
    if not isinstance(before, Running) or before.turn.turn_id != seen.event.turn_id or began is None:
        return [_row(seen, reason, **counted)]  # it was queued, and never began
    took = (seen.at - began) // timedelta(milliseconds=1)
    return [
        _row(seen, reason, **counted, duration_ms=took),
        *timed(LATENCY, seen, took, seen.graph, reason),
    ]


def _row(seen: EventContext[Any], reason: str = "", **counted: int) -> Change:
    return TURNS, TURNS.row(tenant=seen.tenant, hour=seen.hour, graph=seen.graph, reason=reason, **counted)


PROJECTION = Projection(
    "turns",
    1,
    (TURNS, LATENCY),
    {
        TurnStarted: _started,
        TurnResumed: _resumed,
        TurnCompleted: _completed,
        TurnFailed: _failed,
        TurnCancelled: _cancelled,
        TurnRolledBack: _rolled_back,
    },
)
