"""When each thread ran, waited for a person, or was over its budget: so that any instant can be asked who did."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, TypeAlias

from domain.ids import Tenant, ThreadId, Version
from domain.read_models.queries import Select, Spanning, Where
from domain.read_models.tables import Change, Column, Index, Table
from domain.thread.events import EVENTS
from projections.engine.projection import EventContext, Projection

Kind: TypeAlias = Literal["running", "waiting", "over_budget"]

SPELLS = Table(
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


def _told(seen: EventContext[Any]) -> Iterable[Change]:
    if seen.status == seen.spell.status and seen.is_over is seen.was_over:
        return ()  # as with most events
    return [*_turned(seen), *_overran(seen)]


def _turned(seen: EventContext[Any]) -> Iterable[Change]:
    now, spell = seen.status, seen.spell
    if now != spell.status:
        if spell.status != "idle" and spell.version:
            yield _row(seen, spell.status, spell.version, spell.since, seen.at)
        if now != "idle":
            yield _row(seen, now, seen.recorded.version, seen.at, None)


def _overran(seen: EventContext[Any]) -> Iterable[Change]:
    """Begin a time over budget, and say anew when it ends: with the event, or with another window than before."""
    was, now = seen.was_over, seen.is_over
    if was and now is None:
        yield _row(seen, "over_budget", was.version, was.since, seen.at)
    if now and now != was:
        yield _row(seen, "over_budget", now.version, now.since, now.until)


def _row(seen: EventContext[Any], kind: Kind, version: Version, since: datetime, until: datetime | None) -> Change:
    return (
        SPELLS,
        SPELLS.row(
            since=since,
            until=until,
            version=version,
            slice=seen.slice,
            thread_id=seen.thread_id,
            tenant=seen.tenant,
            status=kind,
        ),
    )


PROJECTION = Projection("spells", 2, (SPELLS,), dict.fromkeys(EVENTS, _told))


def at_instant(
    tenant: Tenant, kind: Kind, at: datetime, after: tuple[datetime, ThreadId] | None = None, limit: int = 100
) -> Select:
    """Ask for a page of the threads that ran, waited, or were over budget at an instant, the longest first."""
    where = (Where("tenant", "=", tenant), Where("status", "=", kind), Spanning("since", "until", at))
    return Select(SPELLS, where, ("since", "thread_id"), after=after, limit=limit)
