"""The manifest of an export: it is written last, and names the files that belong to the export."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from domain.errors import BadExport
from domain.ids import SLICES, Position
from infrastructure.archive.files import create_file, open_file

P = TypeVar("P")

LAYOUT = 1
"""The version of the files' layout and columns. Raise it when they change."""

NAME = "manifest.json"
MAX_BYTES = 64 << 20
"""Bytes of a manifest: enough for 200,000 files."""

UNFINISHED = ".new"
"""The suffix of a file that is not complete yet."""

Format: TypeAlias = Literal["parquet", "ndjson"]

EVENTS_PATH = re.compile(r"events/day=\d{4}-\d\d-\d\d/part-(\d{6})\.(parquet|ndjson)")
COMMANDS_PATH = re.compile(r"commands/part-(\d{6})\.(parquet|ndjson)")


class Place(Struct, frozen=True):
    """An event in a file: its position in the log, and its hash."""

    slice: int
    position: int
    hash: str


class End(Struct, frozen=True):
    """The last event of a slice that was exported."""

    position: int
    hash: str


class File(Struct, Generic[P], frozen=True):
    """A file of events, in the order of slices and positions, or of commands, in the order of slices and ids."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first: P
    last: P


EventsFile: TypeAlias = File[Place]
CommandsFile: TypeAlias = File[str]
"""`first` and `last` are ids."""


class Manifest(Struct, frozen=True):
    """What was exported: the files, and the last event of each slice that has events."""

    format: Format
    layout: int = LAYOUT
    positions: Mapping[int, End] = {}
    events: tuple[EventsFile, ...] = ()
    commands: tuple[CommandsFile, ...] = ()

    @property
    def heads(self) -> list[Position]:
        """The last exported position of every slice, in the order of the slices."""
        return [Position(end.position if (end := self.positions.get(n)) else 0) for n in range(SLICES)]

    @property
    def files(self) -> Sequence[EventsFile | CommandsFile]:
        return [*self.events, *self.commands]

    @property
    def paths(self) -> frozenset[str]:
        """The files' paths, relative to the export's directory."""
        return frozenset(file.path for file in self.files)


class _Layout(Struct):
    """What is read first, because the rest depends on it."""

    layout: int


def read_manifest(directory: Path) -> Manifest | None:
    """Read the manifest in a directory; None if there is none.

    Raises:
        BadExport: it is not a manifest of this layout.
    """
    path = directory / NAME
    try:
        with open_file(directory, NAME) as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadExport(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > MAX_BYTES:
        raise BadExport(f"{path} is not the manifest of an export: it has more than {MAX_BYTES:,} bytes.")
    try:
        layout = msgspec.json.decode(raw, type=_Layout).layout
        if layout != LAYOUT:
            raise BadExport(f"{path} is of layout {layout!r}; this version of Threadfold reads layout {LAYOUT}.")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadExport(f"{path} is not the manifest of an export: {error}.") from error
    _check(manifest, path)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest atomically and durably."""
    unfinished = directory / (NAME + UNFINISHED)
    create_file(unfinished)
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
    """Raise `BadExport` for paths out of the directory, and for slices that do not exist."""
    named = [(EVENTS_PATH, file.path) for file in manifest.events]
    named += [(COMMANDS_PATH, file.path) for file in manifest.commands]
    for pattern, name in named:
        match = pattern.fullmatch(name)
        if not match or match[2] != manifest.format:
            raise BadExport(f"{path} names {name!r}, which is not a {manifest.format} file of an export.")
    if len(manifest.paths) < len(named):
        raise BadExport(f"{path} names a file twice.")
    for slice_, end in manifest.positions.items():
        if not (0 <= slice_ < SLICES and 0 < end.position < 2**63):
            raise BadExport(f"{path} has the invalid position {end.position} for slice {slice_}.")
