"""Writing what is new in the log into the files of an export."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from domain.application.archive import all_commands, new_events
from domain.errors import BadExport
from domain.ids import Position, Slice
from domain.ports.archive import LogExport
from domain.ports.log import EventStore
from infrastructure.archive.directory import held, parts_in, remove_leftovers
from infrastructure.archive.manifest import (
    NAME,
    CommandsFile,
    End,
    Format,
    Manifest,
    read_manifest,
    write_manifest,
)
from infrastructure.archive.parts import CommandParts, EventParts
from infrastructure.archive.rows import command_row, event_row

AT_ONCE = 128
"""Slices whose last exported events are looked up in one statement: events can be long."""

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
        CorruptLog: a position is missing, or an event is in a slice that is not its thread's.
    """
    try:
        with held(directory):
            return await _export(store, log, directory, format_, told)
    except OSError as error:
        raise BadExport(f"{error.filename or directory} cannot be written: {error.strerror or error}.") from error


async def _export(store: EventStore, log: LogExport, directory: Path, format_: Format | None, told: Told) -> Exported:
    before = _before(directory, format_)
    all_of_them = CommandParts(directory, before.format, before.commands)
    async with log.view() as view:
        heads = view.heads
        if not await _goes_on(store, before, heads):
            raise BadExport(
                f"{directory} is the export of another log, or of this one before an older backup took its place. "
                "Take another directory."
            )
        if not before.files:
            write_manifest(directory, before)  # if this run is killed, what it leaves is known to be left over
        remove_leftovers(directory, before)
        async for stored in all_commands(view):
            all_of_them.add(map(command_row, stored))
    commands = tuple(all_of_them.close())
    if _digests(commands) == _digests(before.commands):
        commands = before.commands  # and those that were written are left over
    parts = EventParts(directory, before.format, before.events)
    positions = dict(before.positions)
    new, done = sum(heads) - sum(before.heads), 0
    told(new, done)
    async for slice_, page in new_events(store, before.heads, heads):
        parts.add(event_row(slice_, record) for record in page)
        positions[slice_] = End(page[-1].position, page[-1].hash.hex())
        done += len(page)
        told(new, done)
    events = (*before.events, *parts.close())
    if commands != before.commands:
        all_of_them.show()
    parts.show()
    after = Manifest(before.format, before.layout, dict(sorted(positions.items())), events, commands)
    if after != before:
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


def _before(directory: Path, format_: Format | None) -> Manifest:
    """Read what the runs before have written; at first, nothing."""
    found = read_manifest(directory)
    if found is None and any(parts_in(directory)):
        raise BadExport(
            f"{directory} holds files of an export, but no {NAME}, so nobody knows whether they are left over. "
            "Put that file back from a copy, or take another directory."
        )
    if found is None or not found.files:
        return Manifest(format_ or (found.format if found else "parquet"))
    if format_ and format_ != found.format:
        raise BadExport(f"{directory} holds {found.format} files. Go on with that format, or take another directory.")
    return found


def _digests(files: Sequence[CommandsFile]) -> list[str]:
    return [file.sha256 for file in files]


async def _goes_on(store: EventStore, manifest: Manifest, heads: Sequence[Position]) -> bool:
    """Say whether the log has what was exported: in each slice, the last event. So no log is added to another one.

    Nor is it to the events that it had before an older backup took its place, however far it has come since.
    """
    if any(was > now for was, now in zip(manifest.heads, heads, strict=True)):
        return False
    slices = sorted(manifest.positions)
    for some in (slices[start : start + AT_ONCE] for start in range(0, len(slices), AT_ONCE)):
        ends = [manifest.positions[slice_] for slice_ in some]
        before = {Slice(slice_): Position(end.position - 1) for slice_, end in zip(some, ends, strict=True)}
        found: list[End] = []
        while before and (page := await store.read_after(before, 1)):
            found += [End(record.position, record.hash.hex()) for record in page]
            before = dict([*before.items()][len(page) :])  # a page may end before, where the events are large
        if found != ends:
            return False
    return True
