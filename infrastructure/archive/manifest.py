"""What an export holds: the last file that is written, and the only one that says which others count."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from domain.errors import BadExport
from domain.ids import SLICES, Position

LAYOUT = 1
"""Raised when files are laid out otherwise, or have other columns."""

NAME = "manifest.json"
UNFINISHED = ".new"
"""What is added to the name of a file that is not whole yet."""

Format: TypeAlias = Literal["parquet", "ndjson"]

EVENTS_PATH = re.compile(r"events/day=\d{4}-\d\d-\d\d/part-(\d{6})\.(parquet|ndjson)")
COMMANDS_PATH = re.compile(r"commands/part-(\d{6})\.(parquet|ndjson)")


class Place(Struct, frozen=True):
    """An event in a file: where it stands in the log, and its hash."""

    slice: int
    position: int
    hash: str


class End(Struct, frozen=True):
    """The last event of a slice that was exported."""

    position: int
    hash: str


class EventsFile(Struct, frozen=True):
    """A file of events, in the order of slices and positions."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first: Place
    last: Place


class CommandsFile(Struct, frozen=True):
    """A file of commands, in the order of slices and ids. `first` and `last` are ids."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first: str
    last: str


class Manifest(Struct, frozen=True):
    """What was exported: up to which event of each slice (those without events are left out), into which files."""

    format: Format
    layout: int = LAYOUT
    positions: Mapping[int, End] = {}
    events: tuple[EventsFile, ...] = ()
    commands: tuple[CommandsFile, ...] = ()

    @property
    def heads(self) -> list[Position]:
        """The last exported position of every slice, in the order of the slices."""
        ends = map(self.positions.get, range(SLICES))
        return [Position(end.position if end else 0) for end in ends]

    @property
    def files(self) -> Sequence[EventsFile | CommandsFile]:
        return [*self.events, *self.commands]

    @property
    def paths(self) -> frozenset[str]:
        """The files' paths, relative to the export's directory."""
        return frozenset(file.path for file in self.files)


def read_manifest(directory: Path) -> Manifest | None:
    """Read what an export holds; None if there is none.

    Raises:
        BadExport: it is no manifest that we can read.
    """
    path = directory / NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadExport(f"{path} cannot be read: {error.strerror}.") from error
    try:
        layout = msgspec.json.decode(raw, type=dict)["layout"]
        if layout != LAYOUT:
            raise BadExport(f"{path} is of layout {layout!r}; this version of Threadfold reads layout {LAYOUT}.")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
        raise BadExport(f"{path} is not the manifest of an export: {error}.") from error
    _check(manifest, path)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest, in one step that survives a loss of power."""
    unfinished = directory / (NAME + UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(directory / NAME)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(manifest: Manifest, path: Path) -> None:
    """No path may lead out of the directory, no slice be one that there is not."""
    named = [(EVENTS_PATH, file.path) for file in manifest.events]
    named += [(COMMANDS_PATH, file.path) for file in manifest.commands]
    for pattern, name in named:
        match = pattern.fullmatch(name)
        if not match or match[2] != manifest.format:
            raise BadExport(f"{path} names {name!r}, which is no {manifest.format} file of an export.")
    if len(manifest.paths) < len(named):
        raise BadExport(f"{path} names a file twice.")
    for slice_, end in manifest.positions.items():
        if not (0 <= slice_ < SLICES and 0 < end.position < 2**63):
            raise BadExport(f"{path} says that slice {slice_} was exported up to {end.position}.")
