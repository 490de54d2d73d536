"""An export as it lies in its directory, to be imported."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa

from domain.chain import Record
from domain.errors import BadExport
from domain.ids import Position
from domain.ports.archive import StoredCommand
from infrastructure.archive.directory import parts_in
from infrastructure.archive.formats import read_rows
from infrastructure.archive.manifest import NAME, CommandsFile, EventsFile, read_manifest
from infrastructure.archive.rows import CommandRow, EventRow, command_of, record_of

BLOCK = 1 << 20

UNREADABLE = (OSError, ValueError, msgspec.MsgspecError, pa.ArrowException, KeyError)
"""What reading a file raises whose content is not what we have written, though its digest is the manifest's."""

Told = Callable[[int], None]
"""Hears how many more bytes were checked."""


class ExportedFiles:
    """The log in the files of a directory."""

    def __init__(self, directory: Path) -> None:
        """Read the manifest. Raises `BadExport`: there is none that can be read, or none of a run that has ended."""
        manifest = read_manifest(directory)
        if manifest is None:
            raise BadExport(f"There is no {NAME} in {directory}. `threadfold export` writes one.")
        if not manifest.files and any(parts_in(directory)):
            raise BadExport(f"The first export into {directory} was killed. Repeat it.")
        self._directory = directory
        self.manifest = manifest

    @property
    def heads(self) -> Sequence[Position]:
        """The last positions of all slices."""
        return self.manifest.heads

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.bytes for file in self.manifest.files)

    def check(self, told: Told) -> None:
        """Compare every file with the manifest. Raises `BadExport`, naming the file that differs."""
        for file in self.manifest.files:
            self._check(file, told)

    def events(self) -> Iterator[Sequence[Record]]:
        """Read all events, file by file."""
        for file in self.manifest.events:
            with _reading(self._directory / file.path):
                for rows in read_rows(self.manifest.format, self._directory / file.path, EventRow):
                    yield [record_of(row) for row in rows]

    def commands(self) -> Iterator[Sequence[StoredCommand]]:
        """Read all commands."""
        for file in self.manifest.commands:
            with _reading(self._directory / file.path):
                for rows in read_rows(self.manifest.format, self._directory / file.path, CommandRow):
                    yield [command_of(row) for row in rows]

    def _check(self, file: EventsFile | CommandsFile, told: Told) -> None:
        path = self._directory / file.path
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as opened:
                while block := opened.read(BLOCK):
                    digest.update(block)
                    size += len(block)
                    told(len(block))
        except OSError as error:
            raise BadExport(f"{path}, which the manifest names, cannot be read: {error.strerror}.") from error
        if (size, digest.hexdigest()) != (file.bytes, file.sha256):
            raise BadExport(f"{path} is not as it was exported: its SHA-256 is not the manifest's.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise BadExport(f"{path} cannot be read as the table that it is said to be: {error}.") from error
