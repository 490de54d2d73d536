"""Writing what is new in the log into the files of an export."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from domain.application.archive import all_commands, new_events
from domain.errors import BadExport
from domain.ids import Position, Slice
from domain.ports.archive import LogExport
from domain.ports.log import EventStore
from infrastructure.archive.directory import held, remove_leftovers
from infrastructure.archive.manifest import (
    NAME,
    CommandsFile,
    Format,
    Manifest,
    Place,
    read_manifest,
    write_manifest,
)
from infrastructure.archive.parts import CommandParts, EventParts
from infrastructure.archive.rows import command_row, event_row

Told = Callable[[int, int], None]
"""Hears how many events are new, and how many of them were written."""


class Exported(Struct, frozen=True):
    """What a run has written, and what the export holds now."""

    directory: str
    format: Format
    events: int
    """New ones."""
    commands: int
    """All of them."""
    files: int
    """New ones."""
    all_events: int
    all_files: int


async def export_log(
    store: EventStore, log: LogExport, directory: Path, format_: Format | None, told: Told
) -> Exported:
    """Export what came after the last run. Without a format, that of the last run; at first, Parquet.

    Raises:
        BadExport: the directory cannot be used, holds another format, or the export of another log.
        CorruptLog: a position is missing.
    """
    try:
        with held(directory):
            return await _export(store, log, directory, format_, told)
    except OSError as error:
        raise BadExport(f"{error.filename or directory} cannot be written: {error.strerror or error}.") from error


async def _export(store: EventStore, log: LogExport, directory: Path, format_: Format | None, told: Told) -> Exported:
    before = read_manifest(directory) or Manifest(format_ or "parquet")
    if format_ and format_ != before.format:
        raise BadExport(f"{directory} holds {before.format} files. Go on with that format, or take another directory.")
    remove_leftovers(directory, before)
    all_of_them = CommandParts(directory, before.format, before.commands)
    async with log.view() as view:
        heads = view.heads
        await _check_same_log(store, before, heads, directory)
        async for stored in all_commands(view):
            all_of_them.add(map(command_row, stored))
    commands = tuple(all_of_them.close())
    if _digests(commands) == _digests(before.commands):
        commands = before.commands  # and those that were written are left over
    parts = EventParts(directory, before.format, before.events)
    new, done = sum(heads) - sum(before.heads), 0
    told(new, done)
    async for slice_, page in new_events(store, before.heads, heads):
        parts.add(event_row(slice_, record) for record in page)
        done += len(page)
        told(new, done)
    events = (*before.events, *parts.close())
    if commands != before.commands:
        all_of_them.show()
    parts.show()
    positions = {slice_: head for slice_, head in enumerate(heads) if head}
    after = Manifest(before.format, before.layout, positions, events, commands)
    if after != before or not (directory / NAME).exists():
        write_manifest(directory, after)
    remove_leftovers(directory, after)  # such as the commands of the run before
    return Exported(
        str(directory),
        after.format,
        new,
        sum(file.rows for file in commands),
        len(after.paths - before.paths),
        sum(file.rows for file in events),
        len(after.paths),
    )


def _digests(files: Sequence[CommandsFile]) -> list[str]:
    return [file.sha256 for file in files]


async def _check_same_log(store: EventStore, manifest: Manifest, heads: Sequence[Position], directory: Path) -> None:
    """Do not add one log to another, nor to the events that a log had before a backup took its place."""
    ahead = any(was > now for was, now in zip(manifest.heads, heads, strict=True))
    if ahead or (manifest.events and not await _has(store, manifest.events[-1].last)):
        raise BadExport(
            f"{directory} is the export of another log, or of this one before an older backup took its place. "
            "Take another directory."
        )


async def _has(store: EventStore, place: Place) -> bool:
    found = await store.read_slice(Slice(place.slice), Position(place.position - 1), 1)
    return bool(found) and found[0].hash.hex() == place.hash
