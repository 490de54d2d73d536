"""Rows as Parquet or as JSON lines. Equal rows in equal groups give equal bytes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec.structs import astuple

from infrastructure.archive.manifest import Format
from infrastructure.archive.parquet_limits import BATCH_BYTES, rows_at_once, value_limit
from infrastructure.archive.rows import CommandRow, EventRow, Row

R = TypeVar("R", EventRow, CommandRow)

BATCH_ROWS = 2_000
"""Rows that are read at a time."""

MAX_LINE_BYTES = 32 << 20
"""Bytes of a line of JSON: an event takes at most 2 MB, and an escape six bytes."""

WRITE_BATCH_ROWS = 4
"""Rows after which the writer looks whether a page is full, so that large rows make no page that is much larger."""

INSTANT = pa.timestamp("us", tz="UTC")

TYPES = {
    "slice": pa.int16(),
    "position": pa.int64(),
    "version": pa.int32(),
    "schema": pa.int16(),
    "recorded_at": INSTANT,
    "at": INSTANT,
}
"""The types of columns; the others are texts."""

SCHEMAS = {
    kind: pa.schema([pa.field(name, TYPES.get(name, pa.string()), nullable=False) for name in kind.__struct_fields__])
    for kind in (EventRow, CommandRow)
}

DICTIONARY_COLUMNS = ["tenant", "thread_id", "type", "metadata"]
"""Columns with repeated values, which are dictionary-encoded."""

STATISTICS_COLUMNS = ["slice", "position", "thread_id", "version", "type", "recorded_at", "at"]
"""Columns with statistics, so that readers can skip row groups."""


class ParquetRows:
    """Writes Parquet."""

    def __init__(self, sink: BinaryIO, kind: type[Row]) -> None:
        schema = self._schema = SCHEMAS[kind]
        self._writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            write_batch_size=WRITE_BATCH_ROWS,
            use_dictionary=[name for name in DICTIONARY_COLUMNS if name in schema.names],
            write_statistics=[name for name in STATISTICS_COLUMNS if name in schema.names],
        )

    def write(self, rows: Sequence[Row]) -> None:
        """Write a row group."""
        columns = zip(*map(astuple, rows), strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(rows))

    def close(self) -> None:
        self._writer.close()


class JsonRows:
    """Writes one JSON object a line."""

    def __init__(self, sink: BinaryIO, kind: type[Row]) -> None:
        del kind
        self._sink = sink
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Sequence[Row]) -> None:
        self._sink.write(self._encoder.encode_lines(rows))

    def close(self) -> None:
        """Write nothing."""


WRITERS: Mapping[Format, type[ParquetRows | JsonRows]] = {"parquet": ParquetRows, "ndjson": JsonRows}
"""Each format's class, for a sink and a kind of rows."""


def read_rows(format_: Format, file: BinaryIO, kind: type[R]) -> Iterator[Sequence[R]]:
    """Read a file in batches of at most `BATCH_ROWS` rows, and of some megabytes. Raises `ValueError` and the like."""
    return _parquet_rows(file, kind) if format_ == "parquet" else _json_rows(file, kind)


def _parquet_rows(opened: BinaryIO, kind: type[R]) -> Iterator[Sequence[R]]:
    names = kind.__struct_fields__
    rows = rows_at_once(opened, names, DICTIONARY_COLUMNS, BATCH_ROWS)
    longest = value_limit(os.fstat(opened.fileno()).st_size)
    opened.seek(0)
    with pq.ParquetFile(opened) as file:
        if not file.schema_arrow.equals(SCHEMAS[kind]):  # nothing else checks the types of the columns
            raise ValueError("it has other columns")
        for batch in file.iter_batches(rows, columns=list(names)):
            columns = []
            for name in names:
                column = batch.column(name)
                if column.type == pa.string() and (pc.max(pc.binary_length(column)).as_py() or 0) > longest:
                    raise ValueError(f"a value of its column {name} has more than {longest:,} bytes")
                columns.append(column.to_pylist())
            yield [kind(*values) for values in zip(*columns, strict=True)]


def _json_rows(file: BinaryIO, kind: type[R]) -> Iterator[Sequence[R]]:
    decoder = msgspec.json.Decoder(kind)
    batch: list[R] = []
    size = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"a line has more than {MAX_LINE_BYTES:,} bytes")
        batch.append(decoder.decode(line))
        size += len(line)
        if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch
