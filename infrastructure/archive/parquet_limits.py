"""Checking a Parquet file before Arrow reads it, so that reading takes memory in proportion to the file.

A small file can claim anything: a page that unpacks to gigabytes, a value that is repeated a million times, a footer
with a million columns. Arrow allocates what it is told. So the footer and the headers of all pages are read here first,
without unpacking: they are structures of Thrift's compact protocol. Only what an export writes is accepted: Zstandard,
plain or dictionary-encoded pages of version 1, one chunk of each column after the other.
"""

# ruff: noqa: PLR2004  (the numbers of kinds and fields are the format's)

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

MAGIC = b"PAR1"
ZSTD = 6
PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8
DATA_PAGE, DICTIONARY_PAGE = 0, 2

UNPACKED_BYTES, UNPACKED_PER_BYTE = 24 << 20, 8
"""Bytes of unpacked pages that are in memory at once, at most: so many, and so many more for each byte of the file."""

VALUE_BYTES, VALUE_PER_BYTE = 4 << 20, 4
"""Bytes of a value at most, likewise. An event takes at most 2 MB."""

BATCH_BYTES = 4 << 20
"""Bytes of the rows that are read at a time, roughly."""

FOOTER_BYTES, FOOTER_SHARE = 64 << 10, 2
"""Bytes of a footer at most, or half of the file."""

MAX_HEADER_BYTES = 16 << 10
MAX_DICTIONARY_BYTES = 8 << 20
MAX_ELEMENTS = 64
"""Elements of a list, except of that of the row groups."""

MAX_DEPTH = 12
LENGTH_BYTES = 4
"""Bytes of the length in front of a plain text; no other plain value is shorter."""

ENTRY_BYTES = 16
"""Bytes that Arrow needs for a value of a dictionary, in addition to its text."""


def value_limit(size: int) -> int:
    """Return the bytes of a value at most, in a file of so many bytes."""
    return VALUE_BYTES + VALUE_PER_BYTE * size


def rows_at_once(file: BinaryIO, columns: Sequence[str], dictionaries: Sequence[str], most: int) -> int:
    """Return the number of rows to read at a time. Raises `ValueError` if the file is not as an export writes it."""
    size = os.fstat(file.fileno()).st_size
    end, groups = _footer(file, size)
    position, rows_bytes = len(MAGIC), 1
    for group in groups:
        chunks, rows = group.get(1), group.get(3)
        if not isinstance(chunks, list) or len(chunks) != len(columns) or not isinstance(rows, int):
            raise ValueError("it has other columns")
        memory = row_bytes = 0
        for name, chunk in zip(columns, chunks, strict=True):
            found = _Chunk(file, chunk, name, position, end, rows, may_have_dictionary=name in dictionaries)
            position, memory, row_bytes = found.end, memory + found.memory, row_bytes + found.row_bytes(most)
        if memory > UNPACKED_BYTES + UNPACKED_PER_BYTE * size:
            raise ValueError(
                f"its pages unpack to {memory:,} bytes at once, too many for a file of {size:,} bytes. If an older "
                "version wrote it, export again with this one"
            )
        rows_bytes = max(rows_bytes, row_bytes)
    return max(1, min(most, BATCH_BYTES // rows_bytes))


class _Chunk:
    """What the headers of a column's pages in a row group say."""

    def __init__(
        self, file: BinaryIO, chunk: Any, name: str, begin: int, end: int, rows: int, *, may_have_dictionary: bool
    ) -> None:
        meta = chunk.get(3) if isinstance(chunk, dict) else None
        if not isinstance(meta, dict) or 1 in chunk or meta.get(3) != [name.encode()]:
            raise ValueError("it has other columns")
        if meta.get(4) != ZSTD:
            raise ValueError(f"its column {name} is not compressed by Zstandard")
        starts = [meta[field] for field in (9, 11) if field in meta]
        if not all(map(_is_count, [*starts, meta.get(7), meta.get(5)])) or not starts or meta[5] != rows:
            raise ValueError(f"the description of its column {name} is invalid")
        self._file, self._name = file, name
        self._dictionary: tuple[int, int, int] | None = None
        self._plain_bytes = self._page_bytes = self._entries_bytes = 0
        position, self.end = min(starts), min(starts) + meta[7]
        if not begin <= position <= self.end <= end:
            raise ValueError(f"its column {name} is not where it should be")
        values = 0
        while position < self.end:
            kind, unpacked, packed, count, encoding, position = self._header(position)
            if kind == DICTIONARY_PAGE and may_have_dictionary and self._dictionary is None and not values:
                if encoding not in {PLAIN, PLAIN_DICTIONARY} or not LENGTH_BYTES * count <= unpacked:
                    raise ValueError(f"a dictionary of its column {name} is invalid")
                if unpacked > MAX_DICTIONARY_BYTES:
                    raise ValueError(f"a dictionary of its column {name} has {unpacked:,} bytes")
                self._dictionary = (position, packed, unpacked)
                self._entries_bytes = ENTRY_BYTES * count
            elif kind == DATA_PAGE and encoding == PLAIN and LENGTH_BYTES * count <= unpacked:
                self._plain_bytes = max(self._plain_bytes, -(-unpacked // max(count, 1)))
            elif not (kind == DATA_PAGE and self._dictionary and encoding in {PLAIN_DICTIONARY, RLE_DICTIONARY}):
                raise ValueError(f"its column {name} has a page that no export contains")
            self._page_bytes = max(self._page_bytes, unpacked)
            values += count if kind == DATA_PAGE else 0
            position += packed
        if values != rows or position != self.end:
            raise ValueError(f"the pages of its column {name} do not have its {rows:,} values")

    @property
    def memory(self) -> int:
        """The bytes that the largest page and the dictionary take unpacked."""
        return self._page_bytes + self._entries_bytes + (self._dictionary[2] if self._dictionary else 0)

    def row_bytes(self, rows: int) -> int:
        """Return how many bytes a row may take. A dictionary is unpacked only if its size does not tell."""
        if self._dictionary is None:
            return self._plain_bytes
        position, packed, unpacked = self._dictionary
        if unpacked * rows <= BATCH_BYTES // 4:
            return max(unpacked, self._plain_bytes)
        self._file.seek(position)
        try:
            texts = pa.Codec("zstd").decompress(self._file.read(packed), unpacked, asbytes=True)
        except pa.ArrowException as error:
            raise ValueError(f"a dictionary of its column {self._name} cannot be unpacked: {error}") from error
        longest = at = 0
        while at < len(texts):
            length = int.from_bytes(texts[at : at + LENGTH_BYTES], "little")
            longest, at = max(longest, length), at + LENGTH_BYTES + length
        return max(longest, self._plain_bytes)

    def _header(self, position: int) -> tuple[int, int, int, int, int, int]:
        """Read a page's header: kind, unpacked and packed bytes, values, encoding, and where its data begins."""
        self._file.seek(position)
        data = _Compact(self._file.read(MAX_HEADER_BYTES))
        header = data.struct()
        kind, unpacked, packed = (header.get(field) for field in (1, 2, 3))
        inner = header.get(7 if kind == DICTIONARY_PAGE else 5)
        count, encoding = (inner.get(1), inner.get(2)) if isinstance(inner, dict) else (None, None)
        found = (kind, unpacked, packed, count, encoding)
        if not all(map(_is_count, found)):
            raise ValueError(f"a page of its column {self._name} has an invalid header")
        return *found, position + data.position  # type: ignore[return-value]  # all are integers


def _footer(file: BinaryIO, size: int) -> tuple[int, Iterator[Mapping[int, Any]]]:
    """Return where the footer begins, and its row groups."""
    file.seek(max(size - 8, 0))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != MAGIC or length > size - 12:
        raise ValueError("it is not Parquet, or was cut off")
    if length > max(FOOTER_BYTES, size // FOOTER_SHARE):
        raise ValueError(f"its footer has {length:,} of its {size:,} bytes")
    file.seek(size - 8 - length)
    return size - 8 - length, _Compact(file.read(length)).row_groups()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


class _Compact:
    """Reads Thrift's compact protocol. Raises `ValueError` for what is invalid or excessive."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def row_groups(self) -> Iterator[Mapping[int, Any]]:
        """Yield the structures of field 4, one after the other; check all else."""
        for field, kind in self._fields():
            if field == 4 and kind == 9:
                count, of = self._list_head()
                if of != 12:
                    raise ValueError("its footer is invalid")
                for _ in range(count):
                    yield self.struct()
            else:
                self._value(kind, 0)

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > MAX_DEPTH:
            raise ValueError("its footer is nested too deeply")
        found: dict[int, Any] = {}
        for field, kind in self._fields():
            if field in found:
                raise ValueError("its footer has a field twice")
            found[field] = self._value(kind, depth)
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            yield field, head & 15

    def _value(self, kind: int, depth: int, *, in_list: bool = False) -> Any:
        match kind:
            case 1 | 2:
                return self._byte() == 1 if in_list else kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._take(8)
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                count, of = self._list_head()
                if count > MAX_ELEMENTS:
                    raise ValueError("its footer has a list that is too long")
                return [self._value(of, depth + 1, in_list=True) for _ in range(count)]
            case 12:
                return self.struct(depth + 1)
            case _:  # maps too: Parquet has none
                raise ValueError("its footer is invalid")

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        return (self._varint() if head >> 4 == 15 else head >> 4), head & 15

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("its footer has an invalid number")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        taken = self._data[self.position : self.position + size]
        if len(taken) < size:
            raise ValueError("its footer is cut off")
        self.position += size
        return taken
