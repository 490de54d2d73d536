"""The append statement on PostgreSQL, and what became of an append when the connection was lost."""

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
from msgspec.structs import astuple

from domain.errors import LeaseLost, ThreadfoldError, VersionConflict
from domain.ids import Position, ThreadId, Version, slice_of
from domain.ports.log import Append
from infrastructure.postgres.failures import is_passing, is_undone
from infrastructure.postgres.log.append_sql import APPEND
from infrastructure.postgres.log.metadata_columns import split_metadata
from infrastructure.postgres.retry import Attempts
from infrastructure.postgres.statements import COMMAND, FENCED, RECORDED, THREAD

Outcome = Position | ThreadfoldError
"""The position of an append's first record, or why nothing was stored."""


class Storing:
    """Stores appends. Remembers the threads of statements that got no answer: those may have stored their appends."""

    def __init__(self, pool: asyncpg.Pool | asyncpg.Connection) -> None:
        self._pool = pool
        self.unanswered: set[ThreadId] = set()

    async def store(
        self, appends: Sequence[Append], again: Callable[[Exception], bool] = is_passing
    ) -> list[Position | None]:
        """Append in one statement. None: refused, and nothing of that append was stored; see `refusal`.

        Retries after errors for which `again` is true. Raises `StoreUnavailable`, after which an attempt without an
        answer may have stored everything; or, with nothing stored, asyncpg's error about a value that cannot be stored.
        """
        order = sorted(range(len(appends)), key=lambda index: _lock_order(appends[index]))
        arguments = arguments_of([appends[index] for index in order])
        attempts = Attempts(self._pool, again=again)
        while True:
            async with attempts:
                try:
                    rows = await self._pool.fetch(APPEND, *arguments)
                except BaseException as error:
                    if not (isinstance(error, Exception) and is_undone(error)):
                        self.unanswered.update(append.thread_id for append in appends)
                    raise
                positions = {order[row["number"] - 1]: Position(row["position"]) for row in rows}
                return [positions.get(index) for index in range(len(appends))]

    async def alone(self, append: Append) -> Outcome:
        """Append what could not be stored with others. Raises as `store` does."""
        try:
            (position,) = await self.store([append])
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "commands_pkey":
                raise
            position = None
        return await self.refusal(append) if position is None else position

    async def refusal(self, append: Append) -> Outcome:
        """Find out why an append was refused. Perhaps an attempt without an answer has stored it."""
        thread_id, fence = append.thread_id, append.fence
        key, attempts = (slice_of(thread_id), thread_id), Attempts(self._pool)
        while True:
            async with attempts:
                if thread_id in self.unanswered and (position := await _stored_before(self._pool, append)) is not None:
                    return position
                if fence and await self._pool.fetch(FENCED, fence.shard, fence.epoch, *key):
                    return LeaseLost()
                rows = await self._pool.fetch(THREAD, *key)
                return VersionConflict(append.expected.version, Version(rows[0]["version"] if rows else 0))


async def _stored_before(pool: asyncpg.Pool, append: Append) -> Position | None:
    """Return the position that an attempt without an answer got, or None if it stored nothing.

    A hash covers all events before it in its thread. So a record with the append's last hash is the append's record.
    """
    slice_ = slice_of(append.thread_id)
    if append.records:
        rows = await pool.fetch(RECORDED, slice_, append.thread_id, append.head.version, append.head.hash)
        return Position(rows[0]["position"] - len(append.records) + 1) if rows else None
    command = append.command
    if command is None:
        return None
    rows = await pool.fetch(COMMAND, slice_, command.id)
    ours = bool(rows) and rows[0]["request_hash"] == command.request_hash and rows[0]["result"] == command.result
    return Position(0) if ours else None


def _lock_order(append: Append) -> tuple[int, bytes]:
    """Return the sort key by which rows are locked."""
    return slice_of(append.thread_id), append.thread_id.bytes


def arguments_of(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    """Return the statement's parameters: columns of appends, and columns of their events."""
    requests = zip(*(_request_row(append) for append in appends), strict=True)
    events = [
        (
            *(number, place, record.type, record.schema, record.payload),
            *(*split_metadata(record.metadata), record.recorded_at, record.hash),
        )
        for number, append in enumerate(appends, 1)
        for place, record in enumerate(append.records, 1)
    ]
    columns = zip(*events, strict=True) if events else ([] for _ in range(EVENT_COLUMNS))
    return (*map(list, requests), *map(list, columns))


EVENT_COLUMNS = 9


def _request_row(append: Append) -> tuple[Any, ...]:
    expected, head, records = append.expected, append.head, append.records
    opened_at = records[0].recorded_at if records else head.at
    return (
        *(slice_of(append.thread_id), append.thread_id, append.tenant),
        *(expected.version, expected.hash, expected.version + len(records), head.hash, opened_at, head.at),
        *(append.in_turn, append.waiting, append.forked),
        *(astuple(append.command) if append.command else (None, None, None)),
        *(astuple(append.fence) if append.fence else (None, None)),
    )
