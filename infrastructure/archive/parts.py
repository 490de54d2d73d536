"""Writing files: rows in row groups, row groups in parts, and separate parts for each day of a run."""

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from infrastructure.archive.files import create_file
from infrastructure.archive.formats import WRITERS
from infrastructure.archive.manifest import UNFINISHED, File, Format, P, sync_directory
from infrastructure.archive.rows import Row, characters_of, folder_of

R = TypeVar("R", bound=Row)

GROUP_ROWS = 10_000
"""Rows of a row group."""

MAX_BUFFERED_CHARACTERS = 64_000_000
"""Characters of all unwritten row groups. Beyond that, the largest is written before it is full."""

PART_ROWS = 1_000_000
"""Rows of a part."""

ROW_OVERHEAD_CHARACTERS = 1_000
"""Characters that a row counts for in addition to its texts: its memory in Python, roughly."""


class Sink(io.RawIOBase):
    """A file that is open only during a write, so that a thousand days do not need a thousand file descriptors.

    It has a temporary name until `show`, so that readers of the directory find only complete files.
    """

    def __init__(self, path: Path) -> None:
        """Begin a file, over what an earlier run may have left."""
        super().__init__()
        self._shown = path
        self._path = path.with_name(path.name + UNFINISHED)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        create_file(self._path)
        self._unwritten = bytearray()
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: object) -> int:
        """Take bytes; `put` writes them."""
        taken = bytes(data)  # type: ignore[call-overload]  # bytes, or a buffer of pyarrow's
        self._unwritten += taken
        self.size += len(taken)
        return len(taken)

    def put(self, *, durably: bool = False) -> None:
        self.digest.update(self._unwritten)
        with self._path.open("ab") as file:
            file.write(self._unwritten)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        self._unwritten.clear()

    def show(self) -> None:
        """Give the file its final name."""
        self._path.replace(self._shown)


class Part(Generic[R]):
    """One file of a table."""

    def __init__(self, directory: Path, path: str, format_: Format, first: R) -> None:
        """Begin a file in the export's directory. `first` is the row that will be written first."""
        self.path = path
        self.rows = 0
        self.first = self.last = first
        self.sink = Sink(directory / path)
        self._writer = WRITERS[format_](self.sink, type(first))  # type: ignore[arg-type]  # it is a binary file

    def write(self, rows: Sequence[R]) -> None:
        self._writer.write(rows)
        self.sink.put()
        self.last = rows[-1]
        self.rows += len(rows)

    def close(self) -> None:
        """Complete the file, durably."""
        self._writer.close()
        self.sink.put(durably=True)


class _Folder(Generic[R]):
    """The parts in one folder."""

    def __init__(self, directory: Path, folder: str, format_: Format, number: int) -> None:
        self._directory, self._folder, self._format, self._number = directory, folder, format_, number
        self.parts: list[Part[R]] = []
        self.rows: list[R] = []
        self.size = 0

    def add(self, row: R) -> None:
        self.rows.append(row)
        self.size += characters_of(row) + ROW_OVERHEAD_CHARACTERS
        if len(self.rows) == GROUP_ROWS:
            self.put()

    def put(self) -> None:
        if not self.parts or self.parts[-1].rows >= PART_ROWS:
            path = f"{self._folder}/part-{self._number + len(self.parts):06}.{self._format}"
            if self.parts:
                self.parts[-1].close()
            self.parts.append(Part(self._directory, path, self._format, self.rows[0]))
        self.parts[-1].write(self.rows)
        self.rows, self.size = [], 0

    def close(self) -> Sequence[Part[R]]:
        if self.rows:
            self.put()
        if self.parts:
            self.parts[-1].close()
        return self.parts


class Parts(Generic[R, P]):
    """The parts of a run, separate for each folder: those of events for each day of `recorded_at` in UTC."""

    def __init__(self, directory: Path, format_: Format, known: Iterable[File[P]], name: Callable[[R], P]) -> None:
        """Number the new parts after the known ones. `name` returns what the manifest names a row by."""
        self._directory, self._format, self._name = directory, format_, name
        self._numbers: defaultdict[str, int] = defaultdict(int)
        for file in known:
            folder, number = re.split(r"/part-|\.", file.path)[:2]
            self._numbers[folder] = max(self._numbers[folder], int(number))
        self._folders: dict[str, _Folder[R]] = {}
        self._size = 0

    def add(self, rows: Iterable[R]) -> None:
        for row in rows:
            name = folder_of(row)
            folder = self._folders.get(name)
            if folder is None:
                folder = _Folder(self._directory, name, self._format, self._numbers[name] + 1)
                self._folders[name] = folder
            self._size -= folder.size
            folder.add(row)
            self._size += folder.size
            if self._size > MAX_BUFFERED_CHARACTERS:
                largest = max(self._folders.values(), key=lambda folder: folder.size)
                self._size -= largest.size
                largest.put()

    def close(self) -> list[File[P]]:
        """Write what is left. Returns the parts by folder."""
        parts = [part for _, folder in sorted(self._folders.items()) for part in folder.close()]
        name = self._name
        return [
            File(part.path, part.rows, part.sink.size, part.sink.digest.hexdigest(), name(part.first), name(part.last))
            for part in parts
        ]

    def show(self) -> None:
        """Give the parts their final names."""
        for folder in self._folders.values():
            for part in folder.parts:
                part.sink.show()
        folders = [self._directory / name for name in self._folders]
        for changed in {*folders, *(folder.parent for folder in folders), self._directory}:
            sync_directory(changed)
