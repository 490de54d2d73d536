"""Read models on PostgreSQL.

What a batch comes to and the line's new positions are one transaction. It need not wait for the disk
(`synchronous_commit = off`): a crash takes rows and positions back together, and the log has the events.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from domain.errors import NotRebuildable, StillBehind, Unwritable
from domain.ids import Position, Slice, ThreadId, Version, slice_of
from domain.ports.read_models import Batch, Instance, InstanceId, Line, LineId, Move, Parked, Shape, SliceLag
from domain.read_models.queries import Aggregate, Histogram, Select
from domain.read_models.tables import Row, Rows
from infrastructure.postgres.read_models import statements, tables
from infrastructure.postgres.retry import fetch, reaching

if TYPE_CHECKING:
    from infrastructure.postgres.read_models.queries import Views

UNFIT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What PostgreSQL, or the driver, says of a row that a table does not take."""

OTHER = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
"""What PostgreSQL says where a view is not there yet, or is of another version."""

BUSY = (asyncpg.LockNotAvailableError, asyncpg.DependentObjectsStillExistError)
"""What PostgreSQL says of a view that others need."""

REGISTERING = 0x7265_6164  # "read"
"""The advisory lock under which instances are made, shown and dropped."""


Write: TypeAlias = Callable[[asyncpg.Connection, Mapping[InstanceId, Rows]], Awaitable[None]]


def _queries() -> ModuleType:
    """Import what writes queries: SQLAlchemy takes 0.2 s to import, and most commands read no view."""
    from infrastructure.postgres.read_models import queries  # noqa: PLC0415

    return queries


class PostgresReadModels:
    """`ReadModels` on a migrated database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use a pool's connections. Whoever opened it closes it."""
        self._pool = pool

    async def register(self, shapes: Sequence[Shape]) -> None:
        """Make room for new projections, one process at a time."""
        known = {(shape.name, shape.version) for shape in shapes}
        async with self._changing() as connection:
            there = [Instance(*row) for row in await connection.fetch(statements.INSTANCES)]
            lines = Counter(instance.line for instance in there)
            for instance in there:
                if (instance.projection, instance.version) not in known and lines[instance.line] > 1:
                    lines[instance.line] -= 1
                    await self._part(connection, instance)
            found = {(instance.projection, instance.version) for instance in there}
            missing = {shape.name: shape for shape in shapes if (shape.name, shape.version) not in found}
            for instance in there:
                if instance.status == "building" and instance.projection in missing:
                    await self._forget(connection, instance.id)
            if missing:
                await self._add(connection, list(missing.values()), "building" if there else "serving", None)

    async def instances(self) -> Sequence[Instance]:
        """List the instances."""
        return [Instance(*row) for row in await fetch(self._pool, statements.INSTANCES)]

    async def lines(self) -> Sequence[Line]:
        """Compare positions with heads."""
        return [Line(*row) for row in await fetch(self._pool, statements.LINES)]

    async def behind(self, line: LineId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        """Compare positions with heads."""
        asked = frozenset(slices)
        return [SliceLag(*row) for row in await fetch(self._pool, statements.BEHIND, line) if row["slice"] in asked]

    async def position(self, line: LineId, slice_: Slice) -> Position:
        """Look a position up."""
        rows = await fetch(self._pool, statements.POSITION, line, slice_)
        return Position(rows[0]["position"] if rows else 0)

    async def commit(self, batch: Batch) -> bool:
        """Write a batch in one transaction, and all its rows in one statement; by table, if one does not take them."""
        try:
            return await self._commit(batch, _write_at_once)
        except UNFIT:
            return await self._commit(batch, _write)

    async def _commit(self, batch: Batch, write: Write) -> bool:
        async with self._writing() as (connection, transaction):
            if not await self._moved(connection, batch.line, batch.moves):
                await transaction.rollback()
                return False
            rows = await connection.fetch(statements.ON_LINE, batch.line, [move.slice for move in batch.moves])
            parked = {(row["id"], row["thread_id"]) for row in rows if row["thread_id"]}
            if {row["id"] for row in rows} != batch.rows.keys() or parked != batch.parked:
                await transaction.rollback()
                return False
            for one in batch.parking:
                await connection.execute(statements.PARK, *_columns(one))
            await write(connection, batch.rows)
            await transaction.commit()
            return True

    async def parked(self, instances: Collection[InstanceId], slices: Collection[Slice]) -> Sequence[Parked]:
        """List what is parked."""
        rows = await fetch(self._pool, statements.PARKED, list(instances), list(slices))
        return [Parked(*row) for row in rows]

    async def unpark(self, parked: Parked, upto: Position, rows: Rows, again: Parked | None) -> bool:
        """Write, and let go on, while the slice's position is held."""
        async with self._writing() as (connection, transaction):
            held = await connection.fetchval(statements.HOLD, parked.instance, slice_of(parked.thread_id))
            gone = await connection.fetch(statements.UNPARK, *_columns(parked)[:3], parked.version, parked.attempts)
            if held != upto or not gone:
                await transaction.rollback()
                return False
            if again:
                await connection.execute(statements.PARK, *_columns(again))
            await _write(connection, {parked.instance: rows})
            await transaction.commit()
            return True

    async def rebuild(self, shapes: Sequence[Shape], throttle: int | None = None) -> LineId:
        """Begin new instances."""
        async with self._changing() as connection:
            for row in await connection.fetch(statements.INSTANCES):
                if row["status"] == "building" and row["projection"] in {shape.name for shape in shapes}:
                    raise NotRebuildable(f"{row['projection']} is being built already. Wait for it, or drop it.")
            return await self._add(connection, shapes, "building", throttle)

    async def pause(self, lines: Collection[LineId], seconds: float) -> None:
        """Let lines pause."""
        await fetch(self._pool, statements.PAUSE, list(lines), seconds)

    async def prepare(self, line: LineId) -> None:
        """Let the planner know the new tables: else queries would be planned for empty ones until a vacuum comes."""
        for row in await fetch(self._pool, statements.TABLES, line):
            for name in row["tables"]:
                await fetch(self._pool, tables.analyse(name, row["id"]))

    async def switch(self, line: LineId) -> bool:
        """Show the new tables, unless somebody reads the old ones for so long that others would wait behind this."""
        try:
            return await self._switch(line)
        except asyncpg.LockNotAvailableError:
            return False
        except asyncpg.DependentObjectsStillExistError as error:
            raise _needed(error) from error

    async def _switch(self, line: LineId) -> bool:
        """Compare positions while nobody can move them."""
        async with self._changing() as connection:
            old = [row["line"] for row in await connection.fetch(statements.TO_REPLACE, line)]
            await connection.execute(statements.LOCK_LINES, [line, *old])
            building = [Instance(*row) for row in await connection.fetch(statements.BUILDING, line)]
            if not building or await connection.fetchval(statements.IS_BEHIND, line, old):
                return False
            for instance in building:
                await self._serve(connection, instance)
            await connection.execute(statements.GO_ON, old)
            return True

    async def roll_back(self, projection: str) -> Instance:
        """Show the tables of the last kept instance again."""
        try:
            return await self._roll_back(projection)
        except asyncpg.LockNotAvailableError as error:
            raise NotRebuildable(f"Somebody reads {projection} for long. Try again, or end that.") from error
        except asyncpg.DependentObjectsStillExistError as error:
            raise _needed(error) from error

    async def _roll_back(self, projection: str) -> Instance:
        async with self._changing() as connection:
            rows = await connection.fetch(statements.LAST_KEPT, projection)
            if not rows:
                raise NotRebuildable(f"No older instance of {projection} is kept.")
            kept, serving = Instance(*list(rows[0])[:-1]), rows[0]["serving"]
            await connection.execute(statements.LOCK_LINES, [kept.line, serving])
            if await connection.fetchval(statements.IS_BEHIND, kept.line, [serving]):
                raise StillBehind
            await self._serve(connection, kept)
            return kept

    async def drop(self, instance: InstanceId, *, serving: bool = False) -> None:
        """Drop an instance's tables, once nobody writes to them or reads them."""
        try:
            async with self._changing() as connection:
                if not await self._forget(connection, instance, serving=serving):
                    raise NotRebuildable(f"Instance {instance} serves, or there is none. Only others can be dropped.")
        except asyncpg.LockNotAvailableError as error:
            raise NotRebuildable(f"Somebody reads instance {instance} for long. Try again, or end that.") from error
        except asyncpg.DependentObjectsStillExistError as error:
            raise _needed(error) from error

    async def reached(self, projection: str, slice_: Slice, position: Position) -> bool:
        """Compare a position."""
        rows = await fetch(self._pool, statements.REACHED, projection, slice_)
        return bool(rows) and rows[0]["position"] >= position

    async def select(self, query: Select) -> Sequence[Row]:
        """Read a page of the view."""
        return await self._asked(partial(_queries().select, query))

    async def aggregate(self, query: Aggregate) -> Sequence[Row]:
        """Add up rows of the view."""
        first = len(query.group_by) + bool(query.bucket)
        rows = await self._asked(partial(_queries().aggregate, query))
        return [(*row[:first], *map(int, row[first:])) for row in rows]

    async def histogram(self, query: Histogram) -> Sequence[Row]:
        """Count rows of the view."""
        queries = _queries()
        rows = await self._asked(partial(queries.histogram, query))
        return [(*group, queries.counts_of(counted)) for *group, counted in rows]

    async def _asked(self, written: Callable[["Views | None"], tuple[str, Sequence[object]]]) -> Sequence[Row]:
        """Read a view; where that is of an older version, until this code's is built, without what it lacks."""
        try:
            return await self._read(*written(None))
        except asyncpg.UndefinedColumnError:
            rows = await fetch(self._pool, statements.COLUMNS)
            return await self._read(*written({row["name"]: frozenset(row["columns"]) for row in rows}))

    async def _read(self, statement: str, arguments: Sequence[object]) -> Sequence[Row]:
        """Read a view; one that is not there belongs to a read model that is built for the first time."""
        try:
            return [tuple(row) for row in await fetch(self._pool, statement, *arguments, expecting=OTHER)]
        except asyncpg.UndefinedTableError:
            return []

    async def _moved(self, connection: asyncpg.Connection, line: LineId, moves: Sequence[Move]) -> bool:
        columns = [list(column) for column in zip(*((m.slice, m.after, m.upto) for m in moves), strict=True)]
        rows = await connection.fetch(statements.MOVE, line, *columns)
        return len(rows) == len(moves)

    async def _part(self, connection: asyncpg.Connection, instance: Instance) -> None:
        """Give an instance a line of its own, where the one that it is on is."""
        await connection.execute(statements.LOCK_LINES, [instance.line])
        line = await connection.fetchval(statements.COPY_LINE, instance.line)
        await connection.execute(statements.MOVE_INSTANCE, instance.id, line)

    async def _forget(self, connection: asyncpg.Connection, instance: InstanceId, *, serving: bool = False) -> bool:
        """Lock its line first, as writers do: whoever writes has finished then, and nobody begins to."""
        line = await connection.fetchval(statements.LINE_OF, instance)
        await connection.execute(statements.LOCK_LINES, [line])
        await connection.execute(statements.HURRY)
        for row in await connection.fetch(statements.FORGET, instance, serving):
            for name in row["tables"]:
                if row["served"]:
                    await connection.execute(tables.hide(name))
                await connection.execute(tables.drop(name, instance))
            await connection.execute(statements.FORGET_LINES)
            return True
        return False

    async def _add(
        self, connection: asyncpg.Connection, shapes: Sequence[Shape], status: str, throttle: int | None
    ) -> LineId:
        line: LineId = await connection.fetchval(statements.NEW_LINE, throttle)
        for shape in shapes:
            names = [table.name for table in shape.tables]
            row = await connection.fetchrow(statements.NEW_INSTANCE, shape.name, shape.version, line, status, names)
            for table in shape.tables:
                for statement in tables.create(table, row["id"]):
                    await connection.execute(statement)
                await connection.execute(statements.KEEP_SHAPE, row["id"], list(tables.show(table, row["id"])))
            if status == "serving":
                await self._serve(connection, Instance(*row))
        return line

    async def _serve(self, connection: asyncpg.Connection, instance: Instance) -> None:
        await connection.execute(statements.HURRY)
        await connection.execute(statements.KEEP, instance.projection)
        shown = await connection.fetchval(statements.SERVE, instance.id)
        for statement in shown:
            await connection.execute(statement)

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.transaction.Transaction]]:
        """Begin a transaction that ends as the caller says, or is undone."""
        async with reaching(self._pool, expecting=UNFIT), self._pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection, transaction
            except BaseException:
                with suppress(Exception):  # the first error counts; without a connection, all is undone anyway
                    await transaction.rollback()
                raise

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[asyncpg.Connection]:
        """Change which instances there are, one at a time."""
        async with (
            reaching(self._pool, expecting=BUSY),
            self._pool.acquire() as connection,
            connection.transaction(),
        ):
            await connection.execute(statements.LOCK, REGISTERING)
            yield connection


async def _write_at_once(connection: asyncpg.Connection, rows: Mapping[InstanceId, Rows]) -> None:
    """Write rows in one round trip. The statement is the same whatever there are rows of, so that it stays prepared."""
    written = tuple((instance, table) for instance, of in rows.items() for table in of.tables)
    if written:
        columns = [column for i, table in written for column in tables.arrays_of(table, rows[i].of(table))]
        await connection.execute(tables.write_all(written), *columns)


async def _write(connection: asyncpg.Connection, rows: Mapping[InstanceId, Rows]) -> None:
    """Write rows table by table. Raises `Unwritable` with the table that does not take them."""
    for instance, of in rows.items():
        for table in of.tables:
            try:
                await connection.execute(tables.write(table, instance), *tables.arrays_of(table, of.of(table)))
            except UNFIT as error:
                raise Unwritable(table.name, str(error)) from error


def _needed(error: asyncpg.DependentObjectsStillExistError) -> NotRebuildable:
    return NotRebuildable(f"{error}: {error.detail}. Drop what depends on the view, or change it.")


def _columns(parked: Parked) -> tuple[object, ...]:
    return (
        parked.instance,
        slice_of(ThreadId(parked.thread_id)),
        parked.thread_id,
        Version(parked.version),
        parked.position,
        parked.type,
        parked.error.replace("\x00", "\ufffd"),
        parked.attempts,
        parked.at,
    )
