"""When each thread ran, waited for a person, or was over its budget. Queries ask for any instant.

The SQL view is named `spells`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypeAlias

from domain.ids import Tenant, ThreadId, Version
from domain.read_models.queries import Select, Spanning, Where
from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import EVENTS
from projections.engine.projection import EventContext, Projection

Kind: TypeAlias = Literal["running", "waiting", "over_budget"]

STATUS_PERIODS = Table(
    "spells",
    "When each thread ran, when it waited for a person, and when it was over its budget",
    (
        Column("since", "timestamptz", about="When it began to."),
        Column(
            "until",
            "timestamptz",
            about="When it ceased to; null if it still does. May be to come: over budget until the window's end.",
        ),
        Column("version", "integer", "key", "The version of the event that it began with."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("status", "text", "key", "running; waiting for a person; or over_budget, whatever it does meanwhile."),
    ),
    (Index(("since", "until"), by="span"),),
)


def _changed(context: EventContext[Any]) -> Iterable[Change]:
    if context.status == context.period.status and context.overrun_after is context.overrun_before:
        return ()  # most events change neither
    return _changes(context)


def _changes(context: EventContext[Any]) -> Iterable[Change]:
    """End the periods that the event ends, and begin those that it begins. A time over budget may get another end."""
    status, period = context.status, context.period
    if status != period.status:
        if period.status != "idle" and period.version:
            yield _row(context, period.status, period.version, period.since, context.at)
        if status != "idle":
            yield _row(context, status, context.recorded.version, context.at, None)
    was, now = context.overrun_before, context.overrun_after
    if was and now is None:
        yield _row(context, "over_budget", was.version, was.since, context.at)
    if now and now != was:
        yield _row(context, "over_budget", now.version, now.since, now.until)


def _row(context: EventContext[Any], kind: Kind, version: Version, since: datetime, until: datetime | None) -> Change:
    row = STATUS_PERIODS.row(since, until, version, context.slice, context.thread_id, context.tenant, status=kind)
    return STATUS_PERIODS, row


PROJECTION = Projection("spells", 2, (STATUS_PERIODS,), dict.fromkeys(EVENTS, _changed))


def open_turns(at: datetime, after: tuple[datetime, ThreadId] | None = None, limit: int = 100) -> Select:
    """Return a query for the threads of all tenants that run or wait at an instant, the longest first."""
    where = (Where("status", "in", ("running", "waiting")), Spanning("since", "until", at))
    return Select(STATUS_PERIODS, where, ("since", "thread_id"), after=after, limit=limit)


def at_instant(
    tenant: Tenant, kind: Kind, at: datetime, after: tuple[datetime, ThreadId] | None = None, limit: int = 100
) -> Select:
    """Return a query for the threads that ran, waited, or were over budget at an instant, the longest first."""
    where = (Where("tenant", "=", tenant), Where("status", "=", kind), Spanning("since", "until", at))
    return Select(STATUS_PERIODS, where, ("since", "thread_id"), after=after, limit=limit)
