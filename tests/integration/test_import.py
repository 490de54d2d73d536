"""An export in an empty store: the same log again, or nothing at all."""

import asyncio
import hashlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from api.runtime.stores import LogArchive
from domain.application.archive import Imported, import_log
from domain.errors import BadExport, CorruptLog, LogNotEmpty
from domain.ids import SLICES, Position, Slice, Tenant, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, chain_records
from domain.ports.log import EventStore, ThreadRow
from domain.thread.codec import Metadata, encode
from domain.thread.events import ThreadForked
from infrastructure.archive.manifest import Format
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from tests.streams import NOON, appending, threads_of
from tests.support.command import threadfold
from tests.support.files import content, export, run
from tests.support.log import Log


async def load(archive: LogArchive, directory: Path) -> Imported:
    files = ExportedFiles(directory)
    files.check(lambda _: None)
    return await import_log(archive, files, lambda *_: None)


async def a_log(directory: Path, format_: Format = "parquet", days: int = 3) -> MemoryEventStore:
    """Write a log somewhere, and export it."""
    store = MemoryEventStore()
    await Log(store).write(days)
    await export(store, MemoryArchive(store), directory, format_)
    return store


async def threads(store: EventStore) -> list[ThreadRow]:
    return list(await store.threads(Tenant("default"), None, 1_000))


async def test_an_import_gives_the_same_log_and_the_same_export(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, format_: Format
) -> None:
    origin = await a_log(tmp_path / "one", format_)

    imported = await load(archive, tmp_path / "one")
    await export(event_store, archive, tmp_path / "other", format_)

    assert content(tmp_path / "other") == content(tmp_path / "one")
    assert await threads(event_store) == await threads(origin)
    rows = await threads(origin)
    assert (imported.threads, imported.events) == (len(rows), sum(await origin.slice_heads()))
    assert imported.running == sum(row.in_turn for row in rows) == 5
    assert imported.waiting == sum(row.waiting for row in rows) == 3
    assert len([row for row in rows if row.base]) == 5


async def test_what_was_imported_goes_on(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    await a_log(tmp_path)
    await load(archive, tmp_path)
    log = Log(event_store)
    await log.conversation()
    for row in await threads(event_store):
        loaded = await log.repository.load(row.thread_id)
        assert (loaded.state.in_turn, loaded.state.waiting) == (row.in_turn, row.waiting)
    await export(event_store, archive, tmp_path)


async def test_commands_are_not_forgotten(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    origin = await a_log(tmp_path)
    await load(archive, tmp_path)
    assert len(origin.commands()) > 10
    for stored in origin.commands():
        assert await event_store.command(stored.thread_id, stored.command.id) == stored.command


async def test_a_store_with_events_is_left_as_it_is(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    await a_log(tmp_path)
    await Log(event_store).conversation()
    before = await event_store.slice_heads()
    with pytest.raises(LogNotEmpty, match="empty database"):
        await load(archive, tmp_path)
    assert await event_store.slice_heads() == before


async def test_who_appends_meanwhile_waits_and_goes_on_after_the_last_position(
    pool: asyncpg.Pool, tmp_path: Path
) -> None:
    await a_log(tmp_path)
    store = PostgresEventStore(pool)
    slice_, end = next(iter(ExportedFiles(tmp_path).manifest.positions.items()))
    append = appending(next(threads_of(Slice(slice_))), EMPTY_HEAD, "{}")
    appended: list[asyncio.Task[Position]] = []

    def meanwhile(what: str, _: int) -> None:
        if what == "events" and not appended:
            appended.append(asyncio.create_task(store.append(append)))
        assert not (appended and appended[0].done())

    files = ExportedFiles(tmp_path)
    await import_log(PostgresArchive(pool), files, meanwhile)

    assert await appended[0] == end.position + 1


# --- what is refused


def change(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (change, "is not as it was exported"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not as it was exported"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
    ],
    ids=["changed", "cut off", "gone"],
)
@pytest.mark.parametrize("table", ["events", "commands"])
async def test_files_that_are_not_as_they_were_are_refused_before_anything_is_written(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, harm: Callable[[Path], object], said: str, table: str
) -> None:
    await a_log(tmp_path)
    harmed = next(file.path for file in ExportedFiles(tmp_path).manifest.files if file.path.startswith(table))
    harm(tmp_path / harmed)
    with pytest.raises(BadExport, match=said):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


async def test_a_directory_without_a_manifest_is_refused(archive: LogArchive, tmp_path: Path) -> None:
    with pytest.raises(BadExport, match=r"There is no manifest\.json"):
        await load(archive, tmp_path)


async def test_what_a_killed_first_export_has_left_is_refused(archive: LogArchive, tmp_path: Path) -> None:
    await a_log(tmp_path)
    (tmp_path / "manifest.json").write_text('{"layout": 1, "format": "parquet"}')
    with pytest.raises(BadExport, match=r"was killed\. Run it again"):
        await load(archive, tmp_path)


Entry = dict[str, Any]


def forge(directory: Path, table: str, forgery: Callable[[Entry, list[Entry]], object]) -> None:
    """Change the first JSON lines of a table, and the manifest so that the file's digest fits."""
    manifest = json.loads((directory / "manifest.json").read_text())
    entry = manifest[table][0]
    path = directory / entry["path"]
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    forgery(entry, rows)
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    entry |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.unlink()
    (directory / entry["path"]).parent.mkdir(exist_ok=True)
    (directory / entry["path"]).write_bytes(raw)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def on_another_day(entry: Entry, _: list[Entry]) -> None:
    entry["path"] = "events/day=2020-02-02/part-000001.ndjson"


@pytest.mark.parametrize(
    ("table", "forgery", "said"),
    [
        ("events", lambda entry, _: entry.update(rows=entry["rows"] - 1), "its rows differ from the"),
        ("events", lambda entry, _: entry.update(first=entry["last"]), "its rows differ from the"),
        ("events", lambda entry, _: entry.update(last=entry["first"]), "its rows differ from the"),
        ("events", lambda _, rows: rows.clear(), "its rows differ from the"),
        ("events", on_another_day, "was recorded on another day"),
        ("events", lambda _, rows: rows[0].update(slice=1 + rows[0]["slice"]), "belongs to slice"),
        ("events", lambda _, rows: rows[0].update(recorded_at="2026-11-23T10:00:00"), "recorded_at"),
        ("events", lambda _, rows: rows[0].update(recorded_at="9999-12-31T23:59:59-01:00"), "out of range"),
        ("commands", lambda entry, _: entry.update(rows=entry["rows"] + 1), "its rows differ from the"),
        ("commands", lambda entry, _: entry.update(last=entry["first"]), "its rows differ from the"),
        ("commands", lambda _, rows: rows[0].update(command_id="1"), "badly formed"),
    ],
)
async def test_files_are_held_against_the_manifest_row_by_row(
    event_store: EventStore,
    archive: LogArchive,
    tmp_path: Path,
    table: str,
    forgery: Callable[[Entry, list[Entry]], object],
    said: str,
) -> None:
    await a_log(tmp_path, "ndjson")
    forge(tmp_path, table, forgery)
    with pytest.raises(BadExport, match=rf"{table}/.*part-000001\.ndjson is not a valid file of its table: .*{said}"):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


async def test_the_manifest_s_last_events_are_those_of_the_files(archive: LogArchive, tmp_path: Path) -> None:
    await a_log(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    slice_, end = next(iter(manifest["positions"].items()))
    end["hash"] = "00" * 32
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadExport, match=f"another hash for position {end['position']} of slice {slice_}"):
        await load(archive, tmp_path)


async def test_a_parquet_file_with_other_columns_is_refused(archive: LogArchive, tmp_path: Path) -> None:
    await a_log(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    entry = manifest["events"][0]
    path = tmp_path / entry["path"]
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.set_column(4, "version", pa.array([None] * len(table), pa.int32())), path)
    entry |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadExport, match=r"it has other columns|Zstandard|no export contains"):
        await load(archive, tmp_path)


async def test_events_that_were_changed_together_with_the_manifest_are_found_by_their_hashes(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    origin = MemoryEventStore()
    thread_id = await Log(origin).conversation()
    records = origin._events[thread_id]
    changed = records[1].payload.replace("route_intent", "another_node")
    assert changed != records[1].payload
    origin._slices[slice_of(thread_id)][1] = replace(records[1], payload=changed)
    await export(origin, MemoryArchive(origin), tmp_path)
    with pytest.raises(CorruptLog, match="version 2 was changed"):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


@pytest.mark.parametrize(
    "forged",
    [
        {"payload": "no JSON"},
        {"payload": '{"values":' + "[" * 3_000 + "]" * 3_000 + "}"},
        {"metadata": '{"command": 1}'},
        {"tenant": "a\0b"},
        {"type": "Unheard"},
        {"version": 2**40},
        {"version": 0},
        {"schema": 99_999},
        {"recorded_at": "2026-11-23T10:00:00.000001Z"},
        {"hash": ""},
    ],
    ids=lambda forged: str(forged)[:40],
)
async def test_forged_events_are_refused_whatever_is_in_them(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, forged: Entry
) -> None:
    await a_log(tmp_path, "ndjson", days=1)
    forge(tmp_path, "events", lambda _, rows: rows[1].update(forged))
    with pytest.raises(CorruptLog):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        ({"tenant": "other"}, "not the thread .* of the tenant 'other'"),
        ({"thread_id": str(UUID(int=7))}, "not the thread 00000000-0000-0000-0000-000000000007"),
        ({"result": "{"}, "is not a version"),
        ({"result": '"3"'}, "is not a version"),
        ({"result": "0"}, "is not a version"),
        ({"result": str(2**31)}, "is not a version"),
        ({"request_hash": "00"}, "no SHA-256"),
    ],
)
async def test_forged_commands_are_refused(
    event_store: EventStore, archive: LogArchive, tmp_path: Path, forged: Entry, said: str
) -> None:
    """No hash covers them."""
    await a_log(tmp_path, "ndjson", days=1)
    forge(tmp_path, "commands", lambda _, rows: rows[1].update(forged))
    with pytest.raises(CorruptLog, match=said):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


@pytest.mark.parametrize("at_version", [9, 2**40])
async def test_a_fork_of_itself_is_refused(archive: LogArchive, tmp_path: Path, at_version: int) -> None:
    store = MemoryEventStore()
    thread_id = next(threads_of(Slice(3)))
    fork = encode(ThreadForked(thread_id, at_version), Metadata())
    records, _ = chain_records(Tenant("default"), thread_id, Head(Version(4)), [fork], NOON)
    store.put(replace(record, position=Position(1)) for record in records)
    await export(store, MemoryArchive(store), tmp_path)
    with pytest.raises(CorruptLog, match="begins at version 5 without a matching ThreadForked"):
        await load(archive, tmp_path)


async def test_a_log_with_a_gap_is_refused(event_store: EventStore, archive: LogArchive, tmp_path: Path) -> None:
    await a_log(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["events"].pop()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptLog):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


async def test_a_fork_whose_parent_is_not_there_is_refused(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    origin = MemoryEventStore()
    log = Log(origin)
    parent = await log.running()
    fork = await log.fork(parent, 3, resume=True)
    alone = MemoryEventStore()
    alone.put(
        replace(record, position=Position(n)) for n, record in enumerate(await origin.read(fork, Version(0)), start=1)
    )
    await export(alone, MemoryArchive(alone), tmp_path)
    with pytest.raises(CorruptLog, match="which it does not have"):
        await load(archive, tmp_path)
    assert list(await event_store.slice_heads()) == [0] * SLICES


# --- killed


async def test_an_import_that_is_killed_leaves_the_database_empty_and_can_be_repeated(
    pool: asyncpg.Pool, database_url: str, tmp_path: Path, format_: Format
) -> None:
    await a_log(tmp_path / "one", format_)
    archive = PostgresArchive(pool)
    files = ExportedFiles(tmp_path / "one").manifest.files
    for part in [1, len(files) + 1, len(files) * 2, len(files) * 2 + 2, len(files) * 2 + 20, 800]:
        status, _ = await run("import", database_url, tmp_path / "one", format_, part)
        assert status == -signal.SIGKILL
        for table in ("events", "threads", "commands"):
            assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0
        assert await pool.fetchval("SELECT sum(head) FROM slices") == 0

    status, parts = await run("import", database_url, tmp_path / "one", format_, 0)

    assert status == 0
    assert int(parts) > 1_024
    await export(PostgresEventStore(pool), archive, tmp_path / "other", format_)
    assert content(tmp_path / "other") == content(tmp_path / "one")


# --- the command line


async def test_export_and_import_from_the_command_line(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    async with await open_pool(database_url, max_size=2) as pool:
        await Log(PostgresEventStore(pool)).write()
    one, other = str(tmp_path / "one"), str(tmp_path / "other")

    exported = await threadfold("export", one, "--format", "ndjson", database_url=database_url)
    imported = await threadfold("import", one, database_url=empty_database_url)
    verified = await threadfold("verify", "--json", database_url=empty_database_url)
    again = await threadfold("export", other, "--format", "ndjson", "--json", database_url=empty_database_url)
    refused = await threadfold("import", one, database_url=empty_database_url)
    wrong = await threadfold("export", one, "--format", "parquet", database_url=database_url)

    assert (exported.status, imported.status, exported.err, imported.err) == (0, 0, "", "")
    said = r"Exported ([\d,]+) new events and (\d+) commands in \d+\.\d s: .* holds \1 events in 5 files \(ndjson\)\.\n"
    assert (counted := re.fullmatch(said, exported.out))
    assert re.fullmatch(
        rf"Imported {counted[1]} events, \d+ threads, {counted[2]} commands in \d+\.\d s\. "
        r"Every hash, version and position was verified\. 5 threads will continue\.\n",
        imported.out,
    )
    assert (verified.status, verified.json["problems"]) == (0, [])
    assert again.json["exported"]["events"] == verified.json["events"]
    assert content(tmp_path / "other") == content(tmp_path / "one")
    assert (refused.status, wrong.status) == (1, 1)
    assert refused.err.startswith("Error: The database has a log already, or a part of one.")
    assert "has ndjson files" in wrong.err
