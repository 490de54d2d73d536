"""When each thread ran, and when it waited for a person: so that any instant can be asked who did."""

from collections.abc import Iterable
from datetime import datetime

from domain.events import EVENTS
from domain.ids import Tenant, slice_of
from domain.queries import Select, Spanning, Where
from domain.tables import Change, Column, Index, Table
from projections.projection import Projection, Seen, Spell
from projections.status import Status, status_of

SPELLS = Table(
    "spells",
    "When each thread ran, and when it waited for a person",
    (
        Column("since", "timestamptz", about="When it began to."),
        Column("until", "timestamptz", about="When it ceased to; null if it still does."),
        Column("version", "integer", "key", "The version of the event that it began with."),
        Column("slice", "smallint", "key"),
        Column("thread_id", "uuid", "key", "The thread."),
        Column("tenant", "text", about="Whose thread it is."),
        Column("status", "text", about="running, or waiting for a person."),
    ),
    (Index(("since", "until"), by="span"),),
)


def _turned(seen: Seen) -> Iterable[Change]:
    now, spell = status_of(seen.after), seen.spell
    if now == spell.status:
        return
    if spell.status != "idle" and spell.version:
        yield _row(seen, spell, seen.at)
    if now != "idle":
        yield _row(seen, Spell(now, seen.recorded.version, seen.at), None)


def _row(seen: Seen, spell: Spell, until: datetime | None) -> Change:
    return (
        SPELLS,
        SPELLS.row(
            since=spell.since,
            until=until,
            version=spell.version,
            slice=slice_of(seen.thread_id),
            thread_id=seen.thread_id,
            tenant=seen.tenant,
            status=spell.status,
        ),
    )


PROJECTION = Projection("spells", 1, (SPELLS,), dict.fromkeys(EVENTS, _turned))


def at_instant(tenant: Tenant, status: Status, at: datetime, limit: int) -> Select:
    """Ask which threads ran, or waited, at an instant."""
    where = (Where("tenant", "=", tenant), Where("status", "=", status), Spanning("since", "until", at))
    return Select(SPELLS, where, ("since", "thread_id"), limit=limit)
