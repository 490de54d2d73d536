"""One append on one connection, and the truth about it when the connection is lost."""

from typing import Any

import asyncpg

from domain.errors import VersionConflict
from domain.ids import Position, Version, slice_of
from domain.ports import Append
from infrastructure.postgres.retry import DISCONNECTED, trying
from infrastructure.postgres.statements import APPEND, COMMAND, RECORDED, THREAD


async def append_on(connection: asyncpg.Connection | asyncpg.Pool, append: Append) -> Position | None:
    """Append in the connection's transaction, or in one of its own. None: refused, and nothing was stored."""
    try:
        rows = await connection.fetch(APPEND, *_arguments(append))
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name == "commands_pkey":  # a repeat that changes no version, and came at the same moment
            return None
        raise
    return Position(rows[0]["position"]) if rows else None


async def append_once(pool: asyncpg.Pool, append: Append) -> Position:
    """Append, and try again if the connection is lost: the second attempt finds what the first has stored.

    Raises:
        VersionConflict: the thread has moved on, or the command was stored before.
        StoreUnavailable: no attempt was answered.
    """
    outcome_unknown = False

    async def attempt() -> Position:
        nonlocal outcome_unknown
        try:
            position = await append_on(pool, append)
            if position is None and outcome_unknown:
                position = await _stored_before(pool, append)
        except DISCONNECTED:
            outcome_unknown = True
            raise
        if position is None:
            raise VersionConflict(append.expected.version, await _actual(pool, append))
        return position

    return await trying(pool, attempt)


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


async def _actual(pool: asyncpg.Pool, append: Append) -> Version:
    rows = await pool.fetch(THREAD, slice_of(append.thread_id), append.thread_id)
    return Version(rows[0]["version"] if rows else 0)


def _arguments(append: Append) -> tuple[Any, ...]:
    """Bring an append into the order of the statement's parameters."""
    command, records, head = append.command, append.records, append.head
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
        command.id if command else None,
        command.request_hash if command else None,
        command.result if command else None,
        [record.type for record in records],
        [record.schema for record in records],
        [record.payload for record in records],
        [record.metadata for record in records],
        [record.recorded_at for record in records],
        [record.hash for record in records],
    )
