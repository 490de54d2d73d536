"""A read model of notes, and a desk to write them at: for tests of the stores."""

import itertools
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from domain.ids import Position, Slice
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.log import EventStore
from domain.ports.read_models import Batch, Instance, Move, ProjectionGroup, ReadModels, Shape
from domain.read_models.queries import Select
from domain.read_models.tables import Column, Index, Rows, Table
from tests.streams import NOON, appending, threads_of

NOTES = Table(
    "notes",
    "Notes, for the tests",
    (
        Column("id", "integer", "key"),
        Column("slice", "smallint", "key"),
        Column("last", "text", "last"),
        Column("first", "text", "first"),
        Column("added", "bigint", "add"),
        Column("least", "timestamptz", "least"),
        Column("greatest", "integer", "greatest"),
        Column("joined", "text", "joined"),
        Column("who", "uuid"),
        Column("more", "json"),
        Column("words", "words"),
        Column("since", "timestamptz"),
        Column("until", "timestamptz"),
    ),
    (Index(("last", "id")), Index(("words",), by="words"), Index(("since", "until"), by="span")),
)
TAGS = Table("tags", "Tags of notes", (Column("id", "integer", "key"), Column("tag", "text", "key")))
SHAPE = Shape("notes", 1, (NOTES, TAGS))
HERE = Slice(7)
LATER = NOON + timedelta(hours=1)


def note(id_: int, **values: Any) -> Any:
    return NOTES, NOTES.row(
        **{"id": id_, "slice": 7, "least": NOON, "greatest": 0, "joined": "a", "since": NOON, **values}
    )


class Desk:
    """A log with twenty events in one slice, and a group that has read none of them."""

    def __init__(self, models: ReadModels, store: EventStore) -> None:
        self.models = models
        self.store = store
        self.at = 0

    async def opened(self) -> "Desk":
        for thread_id in itertools.islice(threads_of(HERE), 20):
            await self.store.append(appending(thread_id, EMPTY_HEAD, "{}"))
        await self.models.register([SHAPE])
        return self

    async def instance(self, status: str = "serving") -> Instance:
        return next(i for i in await self.models.instances() if i.status == status)

    async def group(self, instance: Instance) -> ProjectionGroup:
        return next(group for group in await self.models.groups() if group.id == instance.group)

    async def write(self, *changes: Any, instance: Instance | None = None, **how: Any) -> bool:
        batch = await self.batch(*changes, instance=instance)
        return await self.models.commit(replace(batch, **how) if how else batch)

    async def batch(self, *changes: Any, instance: Instance | None = None) -> Batch:
        instance = instance or await self.instance()
        after = await self.models.position(instance.group, HERE)
        rows = Rows()
        rows.add(changes)
        return Batch(instance.group, (Move(HERE, after, Position(after + 1)),), {instance.id: rows})

    async def rows(self, **query: Any) -> list[dict[str, Any]]:
        rows = await self.models.select(Select(NOTES, **{"order": ("id",), **query}))
        return [dict(zip(NOTES.names, row, strict=True)) for row in rows]

    async def ids(self, *where: Any, **query: Any) -> list[int]:
        return [row["id"] for row in await self.rows(where=where, **query)]


def replace_name(table: Table, name: str) -> Table:
    return Table(name, table.about, table.columns)
