"""Files of an export that were made to do harm: one line says what is wrong, and little memory is taken."""

import asyncio
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain.application.archive import import_log
from domain.errors import BadExport, CorruptLog
from domain.ids import ThreadId, slice_of
from infrastructure.archive.formats import DICTIONARY_COLUMNS, SCHEMAS, read_rows
from infrastructure.archive.reading import ExportedFiles
from infrastructure.archive.rows import EventRow
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.settings import CHECKOUT
from tests.streams import new_thread
from tests.support.files import export
from tests.support.log import Log

MAX_MEGABYTES = 200
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PART = "events/day=2026-11-23/part-000001"
THREAD: ThreadId = new_thread()


def named(directory: Path, format_: str, rows: int) -> None:
    """Write the manifest that fits the only file."""
    path = f"{PART}.{format_}"
    content = (directory / path).read_bytes()
    place = {"slice": slice_of(THREAD), "position": 1, "hash": "00" * 32}
    last = {**place, "position": rows}
    digest = hashlib.sha256(content).hexdigest()
    file = {"path": path, "rows": rows, "bytes": len(content), "sha256": digest, "first": place, "last": last}
    positions = {str(slice_of(THREAD)): {"position": rows, "hash": "00" * 32}}
    manifest = {"format": format_, "layout": 1, "positions": positions, "events": [file]}
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def table(rows: int, schema: pa.Schema = SCHEMAS[EventRow], **columns: Any) -> pa.Table:
    values: dict[str, Any] = {
        "slice": [slice_of(THREAD)] * rows,
        "position": range(1, rows + 1),
        "tenant": ["default"] * rows,
        "thread_id": [str(THREAD)] * rows,
        "version": range(1, rows + 1),
        "type": ["ThreadOpened"] * rows,
        "schema": [1] * rows,
        "recorded_at": [NOON] * rows,
        "payload": ["{}"] * rows,
        "metadata": ["{}"] * rows,
        "hash": ["00" * 32] * rows,
    } | columns
    return pa.Table.from_arrays([pa.array(values[f.name], f.type) for f in schema], schema=schema)


def parquet(directory: Path, content: pa.Table, **options: Any) -> None:
    path = directory / f"{PART}.parquet"
    path.parent.mkdir(parents=True)
    given = {"compression": "zstd", "use_dictionary": DICTIONARY_COLUMNS, "write_statistics": False, **options}
    pq.write_table(content, path, **given)
    named(directory, "parquet", content.num_rows)


def lines(directory: Path, content: bytes) -> None:
    path = directory / f"{PART}.ndjson"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    named(directory, "ndjson", 1)


def column(kind: pa.DataType) -> pa.Schema:
    fields = [field if field.name != "payload" else pa.field("payload", kind) for field in SCHEMAS[EventRow]]
    return pa.schema(fields)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a page that unpacks to much": (
        lambda to: parquet(to, table(1, payload=["0" * 120_000_000])),
        "too many for a file of",
    ),
    "a value in a dictionary, many times": (
        lambda to: parquet(to, table(500, metadata=["0" * 1_000_000] * 500)),
        "cannot be stored",
    ),
    "a dictionary for what has none": (
        lambda to: parquet(to, table(20, payload=["0" * 1_000_000] * 20), use_dictionary=True),
        "page that no export contains",
    ),
    "a long value": (lambda to: parquet(to, table(1, payload=["0" * 20_000_000])), "has more than"),
    "gzip": (lambda to: parquet(to, table(1, payload=["0" * 30_000_000]), compression="gzip"), "Zstandard"),
    "snappy": (lambda to: parquet(to, table(1, payload=["0" * 9_000_000]), compression="snappy"), "Zstandard"),
    "another encoding": (
        lambda to: parquet(
            to,
            table(2_000, payload=["0" * n for n in range(2_000)]),
            use_dictionary=False,
            column_encoding={"payload": "DELTA_BYTE_ARRAY"},
        ),
        "page that no export contains",
    ),
    "pages of version 2": (lambda to: parquet(to, table(9), data_page_version="2.0"), "page that no export|header"),
    "a nested column": (
        lambda to: parquet(to, table(1, column(pa.list_(pa.string())), payload=[["{}"] * 100_000])),
        "other columns",
    ),
    "a column of another type": (
        lambda to: parquet(to, table(1, column(pa.binary()), payload=[b"{}"])),
        "other columns",
    ),
    "too many row groups": (lambda to: parquet(to, table(2_000), row_group_size=1), "footer"),
    "nothing": (lambda to: parquet_bytes(to, b""), "not Parquet"),
    "a footer that claims much": (lambda to: parquet_bytes(to, footer(b"\x49\xfc" + b"\xff" * 4 + b"\x07")), "footer"),
    "a footer nested deeply": (lambda to: parquet_bytes(to, footer(b"\x1c" * 50_000)), "nested"),
    "a long line": (lambda to: lines(to, b'{"payload": "' + b"0" * 100_000_000 + b'"}'), "a line has more than"),
    "a line nested deeply": (lambda to: lines(to, b'{"x":' + b"[" * 500_000), "not a valid file"),
    "a line of nulls": (lambda to: lines(to, b"\0" * 900_000), "not a valid file"),
}


def footer(content: bytes) -> bytes:
    return b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1"


def parquet_bytes(directory: Path, content: bytes) -> None:
    path = directory / f"{PART}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    named(directory, "parquet", 1)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_is_refused_in_one_line_and_little_memory(tmp_path: Path, name: str) -> None:
    make, expected = HOSTILE[name]
    make(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.importing", str(tmp_path)), cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    *said, figures = out.decode().splitlines()
    events, megabytes = map(int, figures.split())
    assert (process.returncode, len(said), events) == (0, 1, 0)
    assert re.search(expected, said[0]), said[0]
    assert megabytes < MAX_MEGABYTES


def refused(directory: Path) -> str:
    store = MemoryEventStore()

    def load() -> None:
        files = ExportedFiles(directory)
        files.check(lambda _: None)
        asyncio.run(import_log(MemoryArchive(store), files, lambda *_: None))

    with pytest.raises((BadExport, CorruptLog)) as caught:
        load()
    assert sum(asyncio.run(store.slice_heads())) == 0
    return str(caught.value)


def replaced(directory: Path, what: str) -> Path:
    path = directory / ("manifest.json" if what == "manifest" else f"{PART}.ndjson")
    return path.parent if what == "folder" else path


@pytest.mark.parametrize("what", ["manifest", "file"])
def test_only_regular_files_are_read(tmp_path: Path, what: str) -> None:
    inner, other = tmp_path / "log", tmp_path / "other"
    lines(inner, b"{}")
    path = replaced(inner, what)
    path.rename(other)
    for make in (os.mkfifo, os.mkdir, lambda one: one.symlink_to(other), lambda one: one.symlink_to("/dev/zero")):
        make(path)
        assert "expected a regular file" in refused(inner)
        path.rmdir() if path.is_dir() else path.unlink()


def test_links_do_not_lead_out_of_an_export(tmp_path: Path) -> None:
    inner = tmp_path / "log"
    lines(inner, b"{}")
    for folder in (inner / "events/day=2026-11-23", inner / "events"):
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
        assert "no links" in refused(inner)
        folder.unlink()
        (tmp_path / "moved").rename(folder)


async def test_an_export_writes_over_no_other_file(tmp_path: Path) -> None:
    inner, other = tmp_path / "log", tmp_path / "other"
    other.write_text("untouched", encoding="utf-8")
    inner.mkdir()
    (inner / "manifest.json.new").symlink_to(other)
    store = MemoryEventStore()
    await Log(store).write(1)
    await export(store, MemoryArchive(store), inner, "parquet")
    assert other.read_text(encoding="utf-8") == "untouched"


def test_a_manifest_that_is_large_or_nested_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b'{"x":' + b"[" * 500_000)
    assert "not the manifest" in refused(tmp_path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "more than" in refused(tmp_path)


def test_altered_and_cut_off_files_are_refused_or_equal(tmp_path: Path) -> None:
    parquet(tmp_path, table(500))
    path = tmp_path / f"{PART}.parquet"
    whole = path.read_bytes()
    chance = random.Random(21)
    for number in range(150):
        altered = bytearray(whole)
        if number % 3 == 0:
            del altered[chance.randrange(len(altered)) :]
        else:
            begin = len(altered) // 2 * (number % 2)  # every other time in its latter half, where the footer is
            for _ in range(chance.randrange(1, 4)):
                altered[chance.randrange(begin, len(altered))] = chance.randrange(256)
        path.write_bytes(altered)
        named(tmp_path, "parquet", 500)
        assert refused(tmp_path)


async def test_large_rows_are_written_so_that_they_can_be_read(tmp_path: Path) -> None:
    rows = 300
    path = tmp_path / f"{PART}.parquet"
    parquet(tmp_path, table(rows, payload=['"' + "0" * 200_000 + '"'] * rows), write_batch_size=4)
    with path.open("rb") as file:
        sizes = [len(batch) for batch in read_rows("parquet", file, EventRow)]
    assert sum(sizes) == rows
    assert max(sizes) < 30
