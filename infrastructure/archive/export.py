"""Writing new events of the log to the files of an export."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from domain.application.archive import all_commands, new_events
from domain.errors import BadExport
from domain.ids import Position, Slice
from domain.ports.archive import LogExport
from domain.ports.log import EventStore
from infrastructure.archive.directory import held, parts_in, remove_leftovers
from infrastructure.archive.manifest import NAME, End, Format, Manifest, read_manifest, write_manifest
from infrastructure.archive.parts import Parts
from infrastructure.archive.rows import command_row, event_row, id_of, place_of

SLICES_PER_READ = 128
"""Slices whose last exported events are read in one statement: events can be large."""

Progress = Callable[[int, int], None]
"""Called with the number of new events, and of those that were just written."""


class Exported(Struct, frozen=True):
    """What a run has written, and what the export has now."""

    directory: str
    format: Format
    events: int
    """New events."""
    commands: int
    """All commands."""
    files: int
    """New files."""
    all_events: int
    all_files: int


async def export_log(
    store: EventStore, log: LogExport, directory: Path, format_: Format | None, progress: Progress
) -> Exported:
    """Export what was recorded after the last run. The default format is that of the last run; for a new one, Parquet.

    Raises:
        BadExport: the directory cannot be used, or has another format or the export of another log.
        CorruptLog: a position is missing, or an event is in a slice that is not its thread's.
    """
    with held(directory):
        before = _before(directory, format_)
        all_of_them = Parts(directory, before.format, before.commands, id_of)
        async with log.view() as view:
            heads = view.heads
            if not await _is_continued(store, before, heads):
                raise BadExport(
                    f"{directory} is the export of another log, or of this one before an older backup was restored. "
                    "Use another directory."
                )
            if not before.files:
                write_manifest(directory, before)  # if this run is killed, its files are known to be leftovers
            remove_leftovers(directory, before)
            async for stored in all_commands(view):
                all_of_them.add(map(command_row, stored))
        commands = tuple(all_of_them.close())
        if [file.sha256 for file in commands] == [file.sha256 for file in before.commands]:
            commands = before.commands  # those that were just written are leftovers
        parts = Parts(directory, before.format, before.events, place_of)
        positions = dict(before.positions)
        new = sum(heads) - sum(before.heads)
        progress(new, 0)
        async for slice_, page in new_events(store, before.heads, heads):
            parts.add(event_row(slice_, record) for record in page)
            positions[slice_] = End(page[-1].position, page[-1].hash.hex())
            progress(new, len(page))
        events = (*before.events, *parts.close())
        if commands != before.commands:
            all_of_them.show()
        parts.show()
        after = Manifest(before.format, before.layout, dict(sorted(positions.items())), events, commands)
        if after != before:
            write_manifest(directory, after)
        remove_leftovers(directory, after)  # such as the previous run's commands
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
    """Return the manifest of the previous run, or an empty one."""
    found = read_manifest(directory)
    if found is None and any(parts_in(directory)):
        raise BadExport(
            f"{directory} has files of an export but no {NAME}, which would say whether they are complete. "
            "Restore that file from a copy, or use another directory."
        )
    if found is None or not found.files:
        return Manifest(format_ or (found.format if found else "parquet"))
    if format_ and format_ != found.format:
        raise BadExport(f"{directory} has {found.format} files. Use that format, or another directory.")
    return found


async def _is_continued(store: EventStore, manifest: Manifest, heads: Sequence[Position]) -> bool:
    """Return whether the log has the last exported event of each slice.

    So an export never mixes two logs, or a log and its events from before an older backup was restored.
    """
    if any(was > now for was, now in zip(manifest.heads, heads, strict=True)):
        return False
    slices = sorted(manifest.positions)
    for some in (slices[start : start + SLICES_PER_READ] for start in range(0, len(slices), SLICES_PER_READ)):
        ends = [manifest.positions[slice_] for slice_ in some]
        before = {Slice(slice_): Position(end.position - 1) for slice_, end in zip(some, ends, strict=True)}
        found: list[End] = []
        while before and (page := await store.read_after(before, 1)):
            found += [End(record.position, record.hash.hex()) for record in page]
            before = dict([*before.items()][len(page) :])  # a page of large events may end earlier
        if found != ends:
            return False
    return True
