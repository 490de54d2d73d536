"""Reading the files of an export, to import them."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa

from domain.errors import BadExport
from domain.ids import Position
from domain.log.hash_chain import Record
from domain.ports.archive import StoredCommand
from infrastructure.archive.directory import parts_in
from infrastructure.archive.files import open_file
from infrastructure.archive.formats import read_rows
from infrastructure.archive.manifest import NAME, EventsFile, File, P, read_manifest
from infrastructure.archive.rows import CommandRow, EventRow, command_of, folder_of, id_of, place_of, record_of

R = TypeVar("R", EventRow, CommandRow)
S = TypeVar("S")

BLOCK_BYTES = 1 << 20

UNREADABLE = (OSError, ValueError, OverflowError, msgspec.MsgspecError, pa.ArrowException, KeyError, RecursionError)
"""What reading a file raises if its content is invalid although its digest matches the manifest."""

Progress = Callable[[int], None]
"""Called with the number of bytes that were just checked."""


class ExportedFiles:
    """The log in the files of an export."""

    def __init__(self, directory: Path) -> None:
        """Read the manifest. Raises `BadExport` if there is none, or only that of a run that was killed."""
        manifest = read_manifest(directory)
        if manifest is None:
            raise BadExport(f"There is no {NAME} in {directory}. `threadfold export` writes one.")
        if not manifest.files and any(parts_in(directory)):
            raise BadExport(f"The first export into {directory} was killed. Run it again.")
        self._directory = directory
        self.manifest = manifest

    @property
    def heads(self) -> Sequence[Position]:
        return self.manifest.heads

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.manifest.files)

    def check(self, progress: Progress) -> None:
        """Compare every file with the manifest. Raises `BadExport` with the name of a file that differs."""
        for file in self.manifest.files:
            path = self._directory / file.path
            digest, size = hashlib.sha256(), 0
            try:
                with open_file(self._directory, file.path) as opened:
                    if os.fstat(opened.fileno()).st_size != file.bytes:
                        raise BadExport(f"{path} is not as it was exported: its size differs from the manifest.")
                    while block := opened.read(BLOCK_BYTES):
                        digest.update(block)
                        size += len(block)
                        progress(len(block))
            except OSError as error:
                raise BadExport(f"{path}, which the manifest names, cannot be read: {error.strerror}.") from error
            if (size, digest.hexdigest()) != (file.bytes, file.sha256):
                raise BadExport(f"{path} is not as it was exported: its SHA-256 differs from the manifest.")

    def events(self) -> Iterator[Sequence[Record]]:
        for file in self.manifest.events:
            yield from self._read(file, EventRow, place_of, partial(self._record_of, file))

    def commands(self) -> Iterator[Sequence[StoredCommand]]:
        for file in self.manifest.commands:
            yield from self._read(file, CommandRow, id_of, command_of)

    def _read(
        self, file: File[P], kind: type[R], name: Callable[[R], P], convert: Callable[[R], S]
    ) -> Iterator[Sequence[S]]:
        """Read a file. Raises `BadExport` unless the number of rows, the first and the last are as in the manifest."""
        path = self._directory / file.path
        first = last = None
        count = 0
        try:
            with open_file(self._directory, file.path) as opened:
                for rows in filter(None, read_rows(self.manifest.format, opened, kind)):
                    first, last = first or rows[0], rows[-1]
                    count += len(rows)
                    yield [convert(row) for row in rows]
            if first is None or last is None or (count, name(first), name(last)) != (file.rows, file.first, file.last):
                raise ValueError(f"its rows differ from the {file.rows} of the manifest")
        except UNREADABLE as error:
            raise BadExport(f"{path} is not a valid file of its table: {error}.") from error

    def _record_of(self, file: EventsFile, row: EventRow) -> Record:
        """Convert a row. Raises `ValueError` if it is in the wrong file, or differs from the manifest."""
        if folder_of(row) != file.path.rpartition("/")[0]:
            raise ValueError(f"position {row.position} of slice {row.slice} was recorded on another day")
        end = self.manifest.positions.get(row.slice)
        if end and end.position == row.position and end.hash != row.hash:
            raise ValueError(f"the manifest has another hash for position {row.position} of slice {row.slice}")
        return record_of(row)
