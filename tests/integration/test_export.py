"""The log as files: what is in them, run after run, whenever a run is killed."""

import asyncio
import hashlib
import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow.parquet as pq
import pytest

from api.runtime.stores import LogArchive
from domain.errors import BadExport, CorruptLog
from domain.ids import SLICES, Position, Slice, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record
from domain.ports.log import EventStore
from infrastructure.archive import parts
from infrastructure.archive.manifest import Format
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.log.event_store import PostgresEventStore
from tests.streams import appending, threads_of
from tests.support.files import content, export, run
from tests.support.log import Log


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    for line in lines:
        for name in line.keys() & {"recorded_at", "at"}:
            line[name] = datetime.fromisoformat(line[name])
    return lines


def as_row(record: Record) -> dict[str, Any]:
    return {
        "slice": slice_of(record.thread_id),
        "position": record.position,
        "tenant": record.tenant,
        "thread_id": str(record.thread_id),
        "version": record.version,
        "type": record.type,
        "schema": record.schema,
        "recorded_at": record.recorded_at,
        "payload": record.payload,
        "metadata": record.metadata,
        "hash": record.hash.hex(),
    }


async def everything(store: EventStore) -> list[Record]:
    return [r for number in range(SLICES) for r in await store.read_slice(Slice(number), Position(0), 10_000)]


async def test_every_event_is_in_the_file_of_its_day(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, format_: Format
) -> None:
    await Log(event_store).write()

    done = await export(event_store, archive, tmp_path, format_)

    stored = await everything(event_store)
    found: list[dict[str, Any]] = []
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for path in (tmp_path / entry["path"] for entry in manifest["events"]):
        of_the_day = rows(path)
        assert {f"day={row['recorded_at'].astimezone(UTC):%Y-%m-%d}" for row in of_the_day} == {path.parent.name}
        assert of_the_day == sorted(of_the_day, key=lambda row: (row["slice"], row["position"]))
        (entry,) = (e for e in manifest["events"] if tmp_path / e["path"] == path)
        raw = path.read_bytes()
        assert (entry["rows"], entry["bytes"]) == (len(of_the_day), len(raw))
        assert entry["sha256"] == hashlib.sha256(raw).hexdigest()
        for end, row in (("first", of_the_day[0]), ("last", of_the_day[-1])):
            assert entry[end] == {name: row[name] for name in ("slice", "position", "hash")}
        found += of_the_day
    assert sorted(found, key=lambda row: (row["slice"], row["position"])) == [as_row(record) for record in stored]
    assert (done.events, done.all_events, len(manifest["events"])) == (len(stored), len(stored), 4)
    ends = {str(slice_of(r.thread_id)): {"position": r.position, "hash": r.hash.hex()} for r in stored}
    assert (manifest["layout"], manifest["format"]) == (1, format_)
    assert list(manifest["positions"].items()) == list(ends.items())
    async with archive.view() as view:
        commands = [
            (str(c.command.id), c.tenant, str(c.thread_id), c.command.request_hash.hex(), c.command.result, c.at)
            for c in await view.commands(None, 1_000)
        ]
    written = rows(tmp_path / f"commands/part-000001.{format_}")
    names = ("command_id", "tenant", "thread_id", "request_hash", "result", "at")
    assert [tuple(row[name] for name in names) for row in written] == commands
    assert len(commands) > 10


async def test_each_run_adds_what_is_new_and_changes_no_file_of_events(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, format_: Format
) -> None:
    log = Log(event_store)
    await log.write()
    await export(event_store, archive, tmp_path, format_)
    before = content(tmp_path)
    again = await export(event_store, archive, tmp_path)
    assert (again.events, again.files) == (0, 0)
    assert content(tmp_path) == before

    more = await log.conversation()
    done = await export(event_store, archive, tmp_path)

    after = content(tmp_path)
    events = {name: raw for name, raw in before.items() if name.startswith("events/")}
    assert {name: raw for name, raw in after.items() if name in events} == events
    assert after.keys() - before.keys() == {
        f"events/day=2026-11-26/part-000002.{format_}",
        f"commands/part-000002.{format_}",
    }
    assert before.keys() - after.keys() == {f"commands/part-000001.{format_}"}
    new = rows(tmp_path / f"events/day=2026-11-26/part-000002.{format_}")
    assert {row["thread_id"] for row in new} == {str(more)}
    assert done.events == len(new)


async def test_the_same_log_gives_the_same_bytes_whatever_the_store(
    pool: asyncpg.Pool, tmp_path: Path, format_: Format
) -> None:
    memory, postgres = MemoryEventStore(), PostgresEventStore(pool)
    await Log(memory).write()
    async with PostgresArchive(pool).writing() as writing:
        await writing.add_events(await everything(memory))
        await writing.add_commands(memory.commands())
        await writing.set_heads(await memory.slice_heads())

    await export(memory, MemoryArchive(memory), tmp_path / "one", format_)
    await export(postgres, PostgresArchive(pool), tmp_path / "other", format_)

    assert content(tmp_path / "one") == content(tmp_path / "other")


@pytest.mark.parametrize("held", [parts.MAX_BUFFERED_CHARACTERS, 70_000])
async def test_groups_are_bounded_in_rows_and_in_size_and_parts_in_rows(
    held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryEventStore()
    await Log(store).write(days=2, a_day=20)
    archive = MemoryArchive(store)
    await export(store, archive, tmp_path / "whole", "parquet")
    monkeypatch.setattr(parts, "GROUP_ROWS", 50)
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(parts, "MAX_BUFFERED_CHARACTERS", held)

    await export(store, archive, tmp_path / "pieces", "parquet")

    whole = sorted((tmp_path / "whole").glob("events/*/*"))
    pieces = sorted((tmp_path / "pieces").glob("events/*/*"))
    assert [row for path in whole for row in rows(path)] == [row for path in pieces for row in rows(path)]
    assert (len(whole), len(pieces) > 6) == (3, True)
    files = [pq.read_metadata(path) for path in pieces]
    sizes = [file.row_group(n).num_rows for file in files for n in range(file.num_row_groups)]
    assert max(sizes) <= 50
    assert max(file.num_rows for file in files) < 100 + 50
    assert max(file.row_group(n).total_byte_size for file in files for n in range(file.num_row_groups)) < 100_000
    days = len({path.parent for path in pieces})
    early = sum(size < 50 for size in sizes) > days  # otherwise only the last group of each day is not full
    assert early == (held == 70_000)


async def test_an_empty_log_is_exported_too(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    done = await export(event_store, archive, tmp_path / "new" / "folder")

    assert (done.events, done.format) == (0, "parquet")
    assert list(content(tmp_path / "new" / "folder")) == ["manifest.json"]


# --- what is refused


async def test_another_format_is_refused(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    await Log(event_store).conversation()
    await export(event_store, archive, tmp_path, "ndjson")
    with pytest.raises(BadExport, match="has ndjson files"):
        await export(event_store, archive, tmp_path, "parquet")


async def test_the_export_of_another_log_is_refused(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    other = MemoryEventStore()
    await Log(other).conversation()
    await export(other, MemoryArchive(other), tmp_path)
    before = content(tmp_path)
    await Log(event_store).write()
    with pytest.raises(BadExport, match="the export of another log"):
        await export(event_store, archive, tmp_path)
    assert content(tmp_path) == before


async def test_the_export_of_another_past_is_refused_whichever_slice_tells_it(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    """A backup took the log's place, and the log has grown past the export since."""
    lost, kept = (appending(next(threads_of(Slice(number))), EMPTY_HEAD, "1") for number in (3, 900))
    before = MemoryEventStore()
    for append in (lost, kept):
        await before.append(append)
    await export(before, MemoryArchive(before), tmp_path)
    exported = content(tmp_path)
    for append in (kept, appending(lost.thread_id, EMPTY_HEAD, "2", "3")):
        await event_store.append(append)

    with pytest.raises(BadExport, match="before an older backup was restored"):
        await export(event_store, archive, tmp_path)

    assert content(tmp_path) == exported


async def test_an_export_of_all_slices_goes_on(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    first = [appending(next(threads_of(Slice(number))), EMPTY_HEAD, "1") for number in range(0, SLICES, 5)]
    for append in first:
        await event_store.append(append)
    await export(event_store, archive, tmp_path)
    for append in first[::7]:
        await event_store.append(appending(append.thread_id, append.head, "2"))

    done = await export(event_store, archive, tmp_path)

    assert (done.events, done.all_events) == (30, 205 + 30)


async def test_an_event_in_a_slice_that_is_not_its_thread_s_is_refused(tmp_path: Path) -> None:
    store = MemoryEventStore()
    thread_id = next(threads_of(Slice(3)))
    await store.append(appending(thread_id, EMPTY_HEAD, "1"))
    store._slices[Slice(4)] = store._slices.pop(Slice(3))
    with pytest.raises(CorruptLog, match=f"{thread_id}: version 1 is in slice 4, its thread is of slice 3"):
        await export(store, MemoryArchive(store), tmp_path)


FILE = {"path": "../x", "rows": 1, "bytes": 1, "sha256": "", "first": "", "last": ""}
OUTSIDE = json.dumps({"layout": 1, "format": "ndjson", "commands": [FILE]}).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b'{"layout": 2, "format": "parquet"}',
        b'{"layout": 1, "format": "csv"}',
        b'{"layout": 1, "format": "parquet", "positions": {"3": 1}}',
        b'{"layout": 1, "format": "parquet", "positions": {"3": {"position": 0, "hash": ""}}}',
        b'{"layout": 1, "format": "parquet", "positions": {"1024": {"position": 1, "hash": ""}}}',
        OUTSIDE,
    ],
)
async def test_what_is_no_manifest_is_refused(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, manifest: bytes
) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(BadExport, match=r"manifest\.json"):
        await export(event_store, archive, tmp_path)


async def test_parts_without_a_manifest_are_refused_and_left_alone(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, format_: Format
) -> None:
    await Log(event_store).conversation()
    await export(event_store, archive, tmp_path, format_)
    (tmp_path / "manifest.json").unlink()
    before = content(tmp_path)
    with pytest.raises(BadExport, match=r"Restore that file from a copy, or use another directory"):
        await export(event_store, archive, tmp_path, format_)
    assert content(tmp_path) == before


async def test_parts_that_another_log_s_manifest_does_not_name_are_left_alone(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    other = MemoryEventStore()
    await Log(other).conversation()
    await export(other, MemoryArchive(other), tmp_path / "other")
    await Log(event_store).write()
    await export(event_store, archive, tmp_path / "mine")
    (tmp_path / "other" / "manifest.json").replace(tmp_path / "mine" / "manifest.json")
    before = content(tmp_path / "mine")
    with pytest.raises(BadExport, match="the export of another log"):
        await export(event_store, archive, tmp_path / "mine")
    assert content(tmp_path / "mine") == before


async def test_parts_that_are_newer_than_a_manifest_of_this_log_are_written_again(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, format_: Format
) -> None:
    log = Log(event_store)
    await log.conversation()
    await export(event_store, archive, tmp_path, format_)
    older = (tmp_path / "manifest.json").read_bytes()
    await log.conversation()
    await export(event_store, archive, tmp_path)
    before = content(tmp_path)
    (tmp_path / "manifest.json").write_bytes(older)

    await export(event_store, archive, tmp_path)

    assert content(tmp_path) == before


async def test_a_directory_in_which_nothing_is_named_yet_takes_either_format(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    await export(event_store, archive, tmp_path, "parquet")
    await Log(event_store).conversation()
    assert (await export(event_store, archive, tmp_path, "ndjson")).format == "ndjson"
    assert (await export(event_store, archive, tmp_path)).format == "ndjson"


async def test_two_exports_do_not_write_into_the_same_directory(pool: asyncpg.Pool, tmp_path: Path) -> None:
    store, archive = PostgresEventStore(pool), PostgresArchive(pool)
    await Log(store).write()
    both = await asyncio.gather(*(export(store, archive, tmp_path) for _ in range(2)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in both) == ["BadExport", "Exported"]


async def test_files_of_others_are_left_alone(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    await export(event_store, archive, tmp_path)
    for name in ("notes.txt", "events/day=2026-11-23/part-1.parquet", "events/day=2026-11-23/_SUCCESS"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    ours = tmp_path / "events/day=2026-11-23/part-000009.parquet"
    ours.write_text("left over")

    await export(event_store, archive, tmp_path)

    assert not ours.exists()
    assert len(content(tmp_path)) == 4


# --- killed


@pytest.mark.parametrize(("format_", "before"), [("parquet", False), ("ndjson", True)], ids=["first", "second"])
async def test_a_run_that_is_killed_and_repeated_leaves_the_same_files_as_one_that_was_not(
    pool: asyncpg.Pool, database_url: str, tmp_path: Path, format_: Format, *, before: bool
) -> None:
    store, archive = PostgresEventStore(pool), PostgresArchive(pool)
    log = Log(store)
    await log.write(days=2, a_day=3)
    if before:
        await export(store, archive, tmp_path / "undisturbed", format_)
    begun = content(tmp_path / "undisturbed")
    await log.conversation()
    log.clock.pass_(100_000)
    await log.conversation()
    status, steps = await run("export", database_url, tmp_path / "undisturbed", format_, 0)
    assert status == 0

    for step in range(1, int(steps) + 1):
        directory = tmp_path / f"killed-{step}"
        for name, raw in begun.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(raw)
        status, _ = await run("export", database_url, directory, format_, step)
        assert status == -signal.SIGKILL
        await export(store, archive, directory, format_)
        assert content(directory) == content(tmp_path / "undisturbed"), f"killed before step {step} of {steps}"
    assert int(steps) > 15
