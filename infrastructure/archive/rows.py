"""The rows of each table. Both formats have the same columns with the same values."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from domain.ids import CommandId, Position, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import Record
from domain.ports.archive import StoredCommand
from domain.ports.log import CommandRecord
from infrastructure.archive.manifest import Place

Instant = Annotated[datetime, Meta(tz=True)]
"""A time without an offset from UTC would be read differently on another machine."""


class EventRow(Struct, frozen=True):
    """An event. `payload` and `metadata` are the stored texts, `hash` is hexadecimal."""

    slice: int
    position: int
    tenant: str
    thread_id: str
    version: int
    type: str
    schema: int
    recorded_at: Instant
    payload: str
    metadata: str
    hash: str


class CommandRow(Struct, frozen=True):
    """A command with an idempotency key. `result` is the stored text, `request_hash` is hexadecimal."""

    tenant: str
    thread_id: str
    command_id: str
    request_hash: str
    result: str
    at: Instant


Row = EventRow | CommandRow


def folder_of(row: Row) -> str:
    """Return the folder of commands, or that of the day (in UTC) on which an event was recorded."""
    return "commands" if isinstance(row, CommandRow) else f"events/day={row.recorded_at.astimezone(UTC).date()}"


def characters_of(row: Row) -> int:
    """Return the length of a row's long texts."""
    return len(row.result) if isinstance(row, CommandRow) else len(row.payload) + len(row.metadata)


def place_of(row: EventRow) -> Place:
    """Return an event's place as the manifest has it."""
    return Place(row.slice, row.position, row.hash)


def id_of(row: CommandRow) -> str:
    """Return a command's id, which is its name in the manifest."""
    return row.command_id


def event_row(slice_: int, record: Record) -> EventRow:
    """Convert an event to a row."""
    return EventRow(
        slice_,
        record.position,
        record.tenant,
        str(record.thread_id),
        record.version,
        record.type,
        record.schema,
        record.recorded_at,
        record.payload,
        record.metadata,
        record.hash.hex(),
    )


def record_of(row: EventRow) -> Record:
    """Convert a row to an event. Raises `ValueError` if its thread belongs to another slice."""
    thread_id = ThreadId(UUID(row.thread_id))
    if slice_of(thread_id) != row.slice:
        raise ValueError(f"the thread {thread_id} belongs to slice {slice_of(thread_id)}, not {row.slice}")
    return Record(
        Tenant(row.tenant),
        thread_id,
        Version(row.version),
        row.type,
        row.schema,
        row.payload,
        row.metadata,
        row.recorded_at,
        bytes.fromhex(row.hash),
        Position(row.position),
    )


def command_row(stored: StoredCommand) -> CommandRow:
    """Convert a command to a row."""
    command = stored.command
    return CommandRow(
        stored.tenant,
        str(stored.thread_id),
        str(command.id),
        command.request_hash.hex(),
        command.result,
        stored.at,
    )


def command_of(row: CommandRow) -> StoredCommand:
    """Convert a row to a command."""
    command = CommandRecord(CommandId(UUID(row.command_id)), bytes.fromhex(row.request_hash), row.result)
    return StoredCommand(Tenant(row.tenant), ThreadId(UUID(row.thread_id)), command, row.at)
