"""Appends on one connection, and the truth about each when the connection is lost."""

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from domain.errors import LeaseLost, ThreadfoldError, VersionConflict
from domain.ids import Position, Version, slice_of
from domain.ports.log import Append
from infrastructure.postgres.failures import is_passing, is_undone
from infrastructure.postgres.log.append_sql import APPEND
from infrastructure.postgres.log.metadata_columns import taken_apart
from infrastructure.postgres.retry import ENDLESS, Attempts
from infrastructure.postgres.statements import COMMAND, FENCED, RECORDED, THREAD

Outcome = Position | ThreadfoldError
"""Where an append's first record is, or why nothing of it was stored."""


class Storing:
    """Stores appends, and remembers whether an attempt went without an answer: then it may have stored them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Store through a pool."""
        self._pool = pool
        self._outcome_unknown = False

    async def store(
        self, appends: Sequence[Append], again: Callable[[Exception], bool] = is_passing
    ) -> list[Position | None]:
        """Append in one statement, and try `again` after errors that may pass. None: refused, and nothing was stored.

        Raises `StoreUnavailable`, after which an attempt without an answer may have stored everything; or, with nothing
        stored, asyncpg's error about what cannot be.
        """
        order = sorted(range(len(appends)), key=lambda index: _place(appends[index]))
        arguments = arguments_of([appends[index] for index in order])
        for attempt in Attempts(self._pool, again=again):
            async with attempt:
                try:
                    rows = await self._pool.fetch(APPEND, *arguments)
                except BaseException as error:
                    if not (isinstance(error, Exception) and is_undone(error)):
                        self._outcome_unknown = True
                    raise
                positions = {order[row["number"] - 1]: Position(row["position"]) for row in rows}
                return [positions.get(index) for index in range(len(appends))]
        raise AssertionError(ENDLESS)

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
        """Find out why an append was refused; perhaps because an attempt without an answer has stored it."""
        fence, place = append.fence, (slice_of(append.thread_id), append.thread_id)
        for attempt in Attempts(self._pool):
            async with attempt:
                if self._outcome_unknown and (position := await _stored_before(self._pool, append)) is not None:
                    return position
                if fence and await self._pool.fetch(FENCED, fence.shard, fence.epoch, *place):
                    return LeaseLost()
                rows = await self._pool.fetch(THREAD, *place)
                return VersionConflict(append.expected.version, Version(rows[0]["version"] if rows else 0))
        raise AssertionError(ENDLESS)


async def _stored_before(pool: asyncpg.Pool, append: Append) -> Position | None:
    """Return the position that an attempt without an answer got after all, None if it was lost indeed.

    A hash covers the whole past of its thread, so whatever has our last hash is what we wanted to store.
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


def _place(append: Append) -> tuple[int, bytes]:
    """Name a thread's place in the order that rows are locked in."""
    return slice_of(append.thread_id), append.thread_id.bytes


def arguments_of(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    """Bring appends and their events into the columns of the statement."""
    asked = zip(*(_asked(append) for append in appends), strict=True)
    events = [
        (
            *(number, place, record.type, record.schema, record.payload),
            *(*taken_apart(record.metadata), record.recorded_at, record.hash),
        )
        for number, append in enumerate(appends, 1)
        for place, record in enumerate(append.records, 1)
    ]
    columns = zip(*events, strict=True) if events else ([] for _ in range(EVENT_COLUMNS))
    return (*map(list, asked), *map(list, columns))


EVENT_COLUMNS = 9


def _asked(append: Append) -> tuple[Any, ...]:
    command, records, head, fence = append.command, append.records, append.head, append.fence
    return (
        slice_of(append.thread_id),
        append.thread_id,
        append.tenant,
        append.expected.version,
        append.expected.hash,
        append.expected.version + len(records),
        head.hash,
        records[0].recorded_at if records else head.at,
        head.at,
        append.in_turn,
        append.waiting,
        append.forked,
        command.id if command else None,
        command.request_hash if command else None,
        command.result if command else None,
        fence.shard if fence else None,
        fence.epoch if fence else None,
    )
