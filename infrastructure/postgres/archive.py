"""Exporting a whole log from PostgreSQL, and importing one."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
from msgspec.structs import astuple

from domain.errors import CorruptLog, LogNotEmpty
from domain.ids import Position, Slice, ThreadId, slice_of
from domain.log.hash_chain import Record
from domain.ports.archive import LogView, LogWriting, StoredCommand, ThreadEnds
from domain.ports.log import CommandRecord, ThreadRow
from infrastructure.postgres import archive_statements
from infrastructure.postgres.failures import UNFIT_ROW
from infrastructure.postgres.log.event_store import PostgresEventStore, thread_of
from infrastructure.postgres.log.metadata_columns import split_metadata
from infrastructure.postgres.retry import Store, reaching
from infrastructure.postgres.statements import SLICE_HEADS

T = TypeVar("T")

EVENT_COLUMNS = (
    *("slice", "position", "tenant", "thread_id", "version", "type", "schema"),
    *("payload", "metadata", "causation", "recorded_at", "hash"),
)
COMMAND_COLUMNS = ("slice", "tenant", "thread_id", "command_id", "request_hash", "result", "at")
THREAD_COLUMNS = ("slice", "thread_id", "tenant", "version", "base", "hash", "opened_at", "at", "in_turn", "waiting")

UNFIT = (*UNFIT_ROW, OverflowError, ValueError)
"""Errors of copying rows that are not valid in a log. asyncpg raises the last two before it sends the value."""


class PostgresArchive(Store):
    """A `LogExport` and a `LogImport` on a migrated database."""

    @asynccontextmanager
    async def view(self) -> AsyncIterator[LogView]:
        """Read one snapshot of the database: it has a command and its events, or neither."""
        async with _transaction(self._pool, isolation="repeatable_read", readonly=True) as connection:
            rows = await _reached(connection.fetch(SLICE_HEADS))
            yield _View(connection, [row["head"] for row in rows])

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[LogWriting]:
        """Write in one transaction that locks every slice: appends wait until it ends."""
        async with _transaction(self._pool) as connection:
            await _reached(_refuse_unless_empty(connection))
            yield _Writing(connection)


class _View:
    """The log in a transaction's snapshot."""

    def __init__(self, connection: asyncpg.Connection, heads: Sequence[Position]) -> None:
        self._connection = connection
        self.heads = heads

    async def commands(self, after: StoredCommand | None, limit: int) -> Sequence[StoredCommand]:
        last = (slice_of(after.thread_id), after.command.id) if after else (None, None)
        rows = await _reached(self._connection.fetch(archive_statements.COMMANDS, *last, limit))
        return [_stored(row) for row in rows]


class _Writing:
    """An import of a log in an open transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.written = PostgresEventStore(_Transaction(connection))

    async def add_events(self, records: Sequence[Record]) -> None:
        rows = [
            (
                *(slice_of(r.thread_id), r.position, r.tenant, r.thread_id, r.version, r.type, r.schema),
                *(r.payload, *split_metadata(r.metadata), r.recorded_at, r.hash),
            )
            for r in records
        ]
        await self._copy("events", EVENT_COLUMNS, rows)

    async def add_commands(self, commands: Sequence[StoredCommand]) -> None:
        rows = [(slice_of(c.thread_id), c.tenant, c.thread_id, *astuple(c.command), c.at) for c in commands]
        await self._copy("commands", COMMAND_COLUMNS, rows)

    async def thread_ends(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadEnds]:
        rows = await _reached(self._connection.fetch(archive_statements.THREAD_ENDS, slice_, after, limit))
        return [ThreadEnds(thread_of(row), row["last_type"]) for row in rows]

    async def add_threads(self, rows: Sequence[ThreadRow]) -> None:
        copied = [
            (
                *(slice_of(row.thread_id), row.thread_id, row.tenant, row.head.version, row.base, row.head.hash),
                *(row.opened_at, row.head.at, row.in_turn, row.waiting),
            )
            for row in rows
        ]
        await self._copy("threads", THREAD_COLUMNS, copied)

    async def stray_command(self) -> StoredCommand | None:
        row = await _reached(self._connection.fetchrow(archive_statements.STRAY_COMMAND))
        return _stored(row) if row else None

    async def set_heads(self, heads: Sequence[Position]) -> None:
        await _reached(self._connection.execute(archive_statements.SET_HEADS, list(range(len(heads))), list(heads)))

    async def _copy(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            await _reached(self._connection.copy_records_to_table(table, records=rows, columns=columns))
        except UNFIT as error:
            detail = getattr(error, "detail", None) or ""
            raise CorruptLog(f"A row cannot be written to {table}: {error}. {detail}".rstrip()) from error


def _stored(row: asyncpg.Record) -> StoredCommand:
    command = CommandRecord(row["command_id"], row["request_hash"], row["result"])
    return StoredCommand(row["tenant"], row["thread_id"], command, row["at"])


class _Transaction:
    """An open transaction in place of a pool. Nothing is retried: another connection is not in the transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(statement, *arguments)
        return rows

    def is_closing(self) -> bool:
        return True


@asynccontextmanager
async def _transaction(pool: asyncpg.Pool, **how: Any) -> AsyncIterator[asyncpg.Connection]:
    """Run a block in a transaction."""
    connection = await _reached(pool.acquire())
    try:
        transaction = connection.transaction(**how)
        await _reached(transaction.start())
        try:
            yield connection
        except BaseException:
            with suppress(Exception):  # the first error counts; without a connection, the server rolls back anyway
                await transaction.rollback()
            raise
        await _reached(transaction.commit())
    finally:
        await pool.release(connection)


async def _refuse_unless_empty(connection: asyncpg.Connection) -> None:
    """Lock every slice against appends. Raises `LogNotEmpty`."""
    heads = await connection.fetch(archive_statements.EMPTY_SLICES)
    if any(row["head"] for row in heads) or await connection.fetchval(archive_statements.WRITTEN_BEFORE):
        raise LogNotEmpty


async def _reached(asking: Awaitable[T]) -> T:
    async with reaching(None, expecting=UNFIT):
        answer = await asking
    return answer  # noqa: RET504  (to mypy, the context might suppress an error)
