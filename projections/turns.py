"""How turns do, by the hour: how many began, how they ended and why, and how long they took."""

from collections.abc import Iterable
from datetime import timedelta

from domain.events import (
    TurnCancelled,
    TurnCompleted,
    TurnEnd,
    TurnFailed,
    TurnResumed,
    TurnRolledBack,
    TurnStarted,
)
from domain.state import Running
from domain.tables import Change, Column, Index, Table
from projections.latency import latency_table, timed
from projections.projection import Projection, Seen

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
        Column("reason", "text", "key", "Why they failed or were cancelled; empty for everything else."),
    ),
    (Index(("tenant", "hour")),),
)
LATENCY = latency_table("turns_latency", "How long turns took", ("graph", "reason"))


def _counted(seen: Seen) -> Iterable[Change]:
    match seen.recorded.event:
        case TurnStarted(retries=retries):
            yield _row(seen, started=1, retried=int(retries is not None))
        case TurnResumed():
            yield _row(seen, resumed=1)
        case TurnCompleted() as end:
            yield from _ended(seen, end, completed=1)
        case TurnFailed(reason=reason) as end:
            yield from _ended(seen, end, reason, failed=1)
        case TurnCancelled(how=how) as end:
            yield from _ended(seen, end, how, cancelled=1)
        case TurnRolledBack() as end:
            yield from _ended(seen, end, rolled_back=1)


def _ended(seen: Seen, end: TurnEnd, reason: str = "", **counted: int) -> Iterable[Change]:
    began = seen.turn_started_at
    if not isinstance(seen.before, Running) or seen.before.turn.turn_id != end.turn_id or began is None:
        yield _row(seen, reason, **counted)  # it was queued, and never began
        return
    duration_ms = (seen.at - began) // timedelta(milliseconds=1)
    yield _row(seen, reason, **counted, duration_ms=duration_ms)
    yield from timed(LATENCY, seen, duration_ms, graph=seen.graph, reason=reason)


def _row(seen: Seen, reason: str = "", **counted: int) -> Change:
    of = {"tenant": seen.tenant, "hour": seen.hour, "graph": seen.graph, "reason": reason}
    return TURNS, TURNS.row(**of, **counted)


PROJECTION = Projection(
    "turns",
    1,
    (TURNS, LATENCY),
    dict.fromkeys((TurnStarted, TurnResumed, TurnCompleted, TurnFailed, TurnCancelled, TurnRolledBack), _counted),
)
