"""Rows as Parquet or as JSON lines. Equal rows in equal groups give equal bytes."""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import astuple

from infrastructure.archive.manifest import Format
from infrastructure.archive.rows import CommandRow, EventRow, Row

R = TypeVar("R", EventRow, CommandRow)

BATCH_ROWS = 2_000
"""Rows that are read at a time."""

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


def read_rows(format_: Format, path: Path, kind: type[R]) -> Iterator[Sequence[R]]:
    """Read a file in batches of at most `BATCH_ROWS` rows."""
    return _parquet_rows(path, kind) if format_ == "parquet" else _json_rows(path, kind)


def _parquet_rows(path: Path, kind: type[R]) -> Iterator[Sequence[R]]:
    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(SCHEMAS[kind]):  # nothing else checks the types of the columns
            raise ValueError("it has other columns")
        for batch in file.iter_batches(BATCH_ROWS, columns=list(kind.__struct_fields__)):
            columns = [batch.column(name).to_pylist() for name in kind.__struct_fields__]
            yield [kind(*values) for values in zip(*columns, strict=True)]


def _json_rows(path: Path, kind: type[R]) -> Iterator[Sequence[R]]:
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb", buffering=io.DEFAULT_BUFFER_SIZE * 16) as file:
        rows = map(decoder.decode, file)
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch
