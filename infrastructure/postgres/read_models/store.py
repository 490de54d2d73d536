"""Read models on PostgreSQL.

A batch's rows and the group's new positions are written in one transaction. It does not wait for the disk
(`synchronous_commit = off`): a crash loses rows and positions together, and they are written again from the log.

The SQL schema calls a projection group a `line`.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg
from msgspec.structs import astuple, replace

from domain.errors import NotRebuildable, StillBehind, Unwritable
from domain.ids import Position, Slice, slice_of
from domain.ports.read_models import Batch, GroupId, Instance, InstanceId, Parked, ProjectionGroup, Shape, SliceLag
from domain.read_models.queries import Aggregate, Histogram, Select
from domain.read_models.tables import Row, Rows
from infrastructure.postgres.failures import OTHER_SCHEMA_ERRORS, UNFIT_ROW
from infrastructure.postgres.read_models import statements, tables
from infrastructure.postgres.retry import Store, reaching

BUSY = (asyncpg.LockNotAvailableError, asyncpg.DependentObjectsStillExistError)
"""What PostgreSQL raises if a view that is to change is being read, or is part of another view."""

COUNTED = struct.Struct(">iq")
"""A value and a count of a histogram, in PostgreSQL's binary format."""

REGISTERING = 0x7265_6164  # "read"
"""The advisory lock for changing which instances exist and serve."""

Write: TypeAlias = Callable[[asyncpg.Connection, Mapping[InstanceId, Rows]], Awaitable[None]]


class PostgresReadModels(Store):
    """`ReadModels` on a migrated database."""

    async def register(self, shapes: Sequence[Shape]) -> None:
        """Create instances for new projections, one process at a time."""
        known = {(shape.name, shape.version) for shape in shapes}
        async with self._changing() as connection:
            there = [Instance(*row) for row in await connection.fetch(statements.INSTANCES)]
            groups = Counter(instance.group for instance in there)
            for instance in there:
                if (instance.projection, instance.version) not in known and groups[instance.group] > 1:
                    groups[instance.group] -= 1
                    await connection.execute(statements.LOCK_LINES, [instance.group])
                    group = await connection.fetchval(statements.COPY_LINE, instance.group)
                    await connection.execute(statements.MOVE_INSTANCE, instance.id, group)
            found = {(instance.projection, instance.version) for instance in there}
            missing = {shape.name: shape for shape in shapes if (shape.name, shape.version) not in found}
            for instance in there:
                if instance.status == "building" and instance.projection in missing:
                    await self._forget(connection, instance.id)
            if missing:
                await self._add(connection, list(missing.values()), "building" if there else "serving", None)

    async def instances(self) -> Sequence[Instance]:
        return [Instance(*row) for row in await self._fetch(statements.INSTANCES)]

    async def groups(self) -> Sequence[ProjectionGroup]:
        return [ProjectionGroup(*row) for row in await self._fetch(statements.LINES)]

    async def behind(self, group: GroupId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        asked = frozenset(slices)
        return [SliceLag(*row) for row in await self._fetch(statements.BEHIND, group) if row["slice"] in asked]

    async def position(self, group: GroupId, slice_: Slice) -> Position:
        rows = await self._fetch(statements.POSITION, group, slice_)
        return Position(rows[0]["position"] if rows else 0)

    async def commit(self, batch: Batch) -> bool:
        """Write all rows in one statement. If a table does not take them, write table by table, to know which."""
        try:
            return await self._commit(batch, _write_at_once)
        except UNFIT_ROW:
            return await self._commit(batch, _write)

    async def _commit(self, batch: Batch, write: Write) -> bool:
        async with self._writing() as (connection, transaction):
            columns = zip(*((move.slice, move.after, move.upto) for move in batch.moves), strict=True)
            moved = await connection.fetch(statements.MOVE, batch.group, *map(list, columns))
            rows = await connection.fetch(statements.ON_LINE, batch.group, [move.slice for move in batch.moves])
            parked = {(row["id"], row["thread_id"]) for row in rows if row["thread_id"]}
            as_expected = {row["id"] for row in rows} == batch.rows.keys() and parked == batch.parked
            if len(moved) != len(batch.moves) or not as_expected:
                await transaction.rollback()
                return False
            for one in batch.parking:
                await connection.execute(statements.PARK, *_columns(one))
            await write(connection, batch.rows)
            await transaction.commit()
            return True

    async def parked(self, instances: Collection[InstanceId], slices: Collection[Slice]) -> Sequence[Parked]:
        rows = await self._fetch(statements.PARKED, list(instances), list(slices))
        return [Parked(*row) for row in rows]

    async def unpark(self, parked: Parked, upto: Position, rows: Rows, again: Parked | None) -> bool:
        """Write while the slice's position is locked."""
        place = parked.instance, slice_of(parked.thread_id)
        attempt = parked.thread_id, parked.version, parked.attempts
        async with self._writing() as (connection, transaction):
            held = await connection.fetchval(statements.HOLD, *place)
            gone = await connection.fetch(statements.UNPARK, *place, *attempt)
            if held != upto or not gone:
                await transaction.rollback()
                return False
            if again:
                await connection.execute(statements.PARK, *_columns(again))
            await _write(connection, {parked.instance: rows})
            await transaction.commit()
            return True

    async def rebuild(self, shapes: Sequence[Shape], throttle: int | None = None) -> GroupId:
        async with self._changing() as connection:
            for row in await connection.fetch(statements.INSTANCES):
                if row["status"] == "building" and row["projection"] in {shape.name for shape in shapes}:
                    raise NotRebuildable(f"{row['projection']} is already being built. Wait for it, or drop it.")
            return await self._add(connection, shapes, "building", throttle)

    async def pause(self, groups: Collection[GroupId], seconds: float) -> None:
        await self._fetch(statements.PAUSE, list(groups), seconds)

    async def prepare(self, group: GroupId) -> None:
        """Analyse the new tables. Until then PostgreSQL would plan queries for empty ones."""
        for row in await self._fetch(statements.TABLES, group):
            for name in row["tables"]:
                await self._fetch(f"ANALYZE {tables.place(name, row['id'])}")

    async def switch(self, group: GroupId) -> bool:
        """Show the new tables; give up while a query reads the old ones, since others would queue behind this lock."""
        try:
            async with self._changing() as connection:
                old = [row["line"] for row in await connection.fetch(statements.TO_REPLACE, group)]
                await connection.execute(statements.LOCK_LINES, [group, *old])
                building = [Instance(*row) for row in await connection.fetch(statements.BUILDING, group)]
                if not building or await connection.fetchval(statements.IS_BEHIND, group, old):
                    return False
                for instance in building:
                    await self._serve(connection, instance)
                await connection.execute(statements.GO_ON, old)
                return True
        except asyncpg.LockNotAvailableError:
            return False

    async def roll_back(self, projection: str) -> Instance:
        """Show the tables of the instance that served last again."""
        async with self._changing(projection) as connection:
            row = await connection.fetchrow(statements.LAST_KEPT, projection)
            if row is None:
                raise NotRebuildable(f"No older instance of {projection} is kept.")
            *columns, serving = row
            kept = Instance(*columns)
            await connection.execute(statements.LOCK_LINES, [kept.group, serving])
            if await connection.fetchval(statements.IS_BEHIND, kept.group, [serving]):
                raise StillBehind
            await self._serve(connection, kept)
            return kept

    async def drop(self, instance: InstanceId, *, serving: bool = False) -> None:
        """Drop an instance's tables."""
        async with self._changing(f"instance {instance}") as connection:
            if not await self._forget(connection, instance, serving=serving):
                raise NotRebuildable(f"Instance {instance} serves or does not exist. Only others can be dropped.")

    async def reached(self, projection: str, slice_: Slice, position: Position) -> bool:
        rows = await self._fetch(statements.REACHED, projection, slice_)
        return bool(rows) and rows[0]["position"] >= position

    async def select(self, query: Select) -> Sequence[Row]:
        return await self._asked(query)

    async def aggregate(self, query: Aggregate) -> Sequence[Row]:
        first = len(query.group_by) + bool(query.bucket)
        rows = await self._asked(query)
        return [(*row[:first], *map(int, row[first:])) for row in rows]

    async def histogram(self, query: Histogram) -> Sequence[Row]:
        return [(*group, _counts_of(counted)) for *group, counted in await self._asked(query)]

    async def _asked(self, query: Select | Aggregate | Histogram) -> Sequence[Row]:
        """Read a view. If it is still of an older version, columns that it lacks read as nothing."""
        # SQLAlchemy takes 0.2 s to import, and most commands read no view.
        from infrastructure.postgres.read_models import queries  # noqa: PLC0415

        sql_of = queries.SQL_OF[type(query)]
        try:
            return await self._read(*sql_of(query))
        except asyncpg.UndefinedColumnError:
            rows = await self._fetch(statements.COLUMNS)
            views = {row["name"]: frozenset(row["columns"]) for row in rows}
            return await self._read(*sql_of(query, views))

    async def _read(self, statement: str, arguments: Sequence[object]) -> Sequence[Row]:
        """Read a view. It does not exist while its read model is built for the first time: there are no rows then."""
        try:
            return [tuple(row) for row in await self._fetch(statement, *arguments, expecting=OTHER_SCHEMA_ERRORS)]
        except asyncpg.UndefinedTableError:
            return []

    async def _forget(self, connection: asyncpg.Connection, instance: InstanceId, *, serving: bool = False) -> bool:
        """Delete an instance and its tables. Its group is locked first, as writers do: so no batch is being written."""
        group = await connection.fetchval(statements.LINE_OF, instance)
        await connection.execute(statements.LOCK_LINES, [group])
        await connection.execute(statements.HURRY)
        for row in await connection.fetch(statements.FORGET, instance, serving):
            for name in row["tables"]:
                if row["served"]:
                    await connection.execute(f"DROP VIEW IF EXISTS {tables.SCHEMA}.{name}, analytics.{name}")
                await connection.execute(f"DROP TABLE {tables.place(name, instance)}")
            await connection.execute(statements.FORGET_LINES)
            return True
        return False

    async def _add(
        self, connection: asyncpg.Connection, shapes: Sequence[Shape], status: str, throttle: int | None
    ) -> GroupId:
        group: GroupId = await connection.fetchval(statements.NEW_LINE, throttle)
        for shape in shapes:
            names = [table.name for table in shape.tables]
            row = await connection.fetchrow(statements.NEW_INSTANCE, shape.name, shape.version, group, status, names)
            for table in shape.tables:
                for statement in tables.create(table, row["id"]):
                    await connection.execute(statement)
                await connection.execute(statements.KEEP_SHAPE, row["id"], list(tables.show(table, row["id"])))
            if status == "serving":
                await self._serve(connection, Instance(*row))
        return group

    async def _serve(self, connection: asyncpg.Connection, instance: Instance) -> None:
        await connection.execute(statements.HURRY)
        await connection.execute(statements.KEEP, instance.projection)
        shown = await connection.fetchval(statements.SERVE, instance.id)
        for statement in shown:
            await connection.execute(statement)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.transaction.Transaction]]:
        """Begin a transaction, which the caller commits or rolls back. An error rolls it back."""
        async with reaching(self._pool, expecting=UNFIT_ROW), self._pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection, transaction
            except BaseException:
                with suppress(Exception):  # the first error counts; without a connection, all is undone anyway
                    await transaction.rollback()
                raise

    @asynccontextmanager
    async def _changing(self, what: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """Change which instances exist and serve, one process at a time. `what` is named if a query reads it."""
        try:
            async with (
                reaching(self._pool, expecting=BUSY),
                self._pool.acquire() as connection,
                connection.transaction(),
            ):
                await connection.execute(statements.LOCK, REGISTERING)
                yield connection
        except asyncpg.LockNotAvailableError as error:
            if what is None:
                raise
            raise NotRebuildable(f"A long query reads {what}. Try again, or end the query.") from error
        except asyncpg.DependentObjectsStillExistError as error:
            raise NotRebuildable(f"{error}: {error.detail}. Drop what depends on the view, or change it.") from error


def _counts_of(counted: bytes) -> Mapping[int, int]:
    """Add up counts by value. Measured: the database takes twice as long, and a row for each value ten times."""
    counts: defaultdict[int, int] = defaultdict(int)
    for value, count in COUNTED.iter_unpack(counted):
        counts[value] += count
    return dict(counts)


async def _write_at_once(connection: asyncpg.Connection, rows: Mapping[InstanceId, Rows]) -> None:
    """Write rows in one round trip. The statement does not depend on which tables have rows, so it stays prepared."""
    written = tuple((instance, table) for instance, of in rows.items() for table in of.tables)
    if written:
        columns = [column for i, table in written for column in tables.arrays_of(table, rows[i].of(table))]
        await connection.execute(tables.write_all(written), *columns)


async def _write(connection: asyncpg.Connection, rows: Mapping[InstanceId, Rows]) -> None:
    """Write rows table by table. Raises `Unwritable` with the name of the table that does not take them."""
    for instance, of in rows.items():
        for table in of.tables:
            try:
                await connection.execute(tables.write(table, instance), *tables.arrays_of(table, of.of(table)))
            except UNFIT_ROW as error:
                raise Unwritable(table.name, str(error)) from error


def _columns(parked: Parked) -> tuple[object, ...]:
    error = parked.error.replace("\x00", "\ufffd")
    return (*astuple(replace(parked, error=error)), slice_of(parked.thread_id))
