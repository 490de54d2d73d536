"""Threads with the first and the last UUID there is: nothing may take an id for "before all others" or "after them"."""

from pathlib import Path
from uuid import UUID

import pytest

from api.runtime.stores import LogArchive
from domain.application.archive import Imported, import_log
from domain.application.audit.verify import verify_heads, verify_slices
from domain.ids import SLICES, CommandId, Slice, Tenant, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.log import CommandRecord, EventStore, ThreadCursor
from domain.thread.codec import Metadata, encode
from domain.thread.events import ThreadOpened
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore
from tests.streams import ACME, appending, new_thread
from tests.support.files import content, export
from tests.support.http import running_api
from tests.support.log import Log

NIL = ThreadId(UUID(int=0))
MAX = ThreadId(UUID(int=2**128 - 1))
EDGES = (NIL, MAX)


async def fill(store: EventStore) -> None:
    """Store both edge threads and one between them; each with a command that has an edge id, too."""
    for thread_id, command_id in ((NIL, NIL), (MAX, MAX), (new_thread(), NIL)):
        command = CommandRecord(CommandId(command_id), b"r" * 32, '{"version": 1}')
        draft = encode(ThreadOpened("assistant"), Metadata(CommandId(command_id)))
        await store.append(appending(thread_id, EMPTY_HEAD, draft.payload, command=command))


async def whole_log(directory: Path) -> MemoryEventStore:
    """Make a log of real threads with edge ids elsewhere, and export it."""
    store = MemoryEventStore()
    log = Log(store)
    for thread_id in (NIL, MAX, new_thread()):
        await log._append(thread_id, ThreadOpened("assistant", {}))
        await log._append(thread_id, *log._asked(), *log._answered())
    await export(store, MemoryArchive(store), directory)
    return store


async def test_pages_have_the_edge_threads_once(event_store: EventStore) -> None:
    await fill(event_store)
    for edge in EDGES:
        found: list[ThreadId] = []
        while page := await event_store.threads_of(slice_of(edge), found[-1] if found else None, 1):
            found += [row.thread_id for row in page]
        assert found.count(edge) == 1

    cursor, listed = None, list[ThreadId]()
    while page := await event_store.threads(ACME, cursor, 1):
        listed += [row.thread_id for row in page]
        cursor = ThreadCursor(page[-1].opened_at, page[-1].thread_id)
    assert len(listed) == len(set(listed)) == 3
    assert set(EDGES) < set(listed)


async def test_pages_of_commands_have_edge_ids(event_store: EventStore, archive: LogArchive) -> None:
    await fill(event_store)
    async with archive.view() as view:
        found = await view.commands(None, 1)
        while page := await view.commands(found[-1], 1):
            found = [*found, *page]
    assert sorted(stored.command.id for stored in found) == [NIL, NIL, MAX]


async def load(archive: LogArchive, directory: Path) -> Imported:
    files = ExportedFiles(directory)
    files.check(lambda _: None)
    return await import_log(archive, files, lambda *_: None)


async def test_an_export_with_edge_threads_can_be_imported(
    event_store: EventStore, archive: LogArchive, tmp_path: Path
) -> None:
    await whole_log(tmp_path / "one")

    imported = await load(archive, tmp_path / "one")
    await export(event_store, archive, tmp_path / "other")

    assert (imported.threads, imported.events) == (3, 33)
    assert content(tmp_path / "other") == content(tmp_path / "one")
    assert {row.thread_id for row in await event_store.threads(Tenant("default"), None, 10)} > set(EDGES)
    verified = await verify_slices(event_store, map(Slice, range(SLICES)))
    assert (verified.threads, verified.events, verified.problems) == (3, 33, ())
    assert (await verify_heads(event_store, map(Slice, range(SLICES)))).problems == ()


@pytest.fixture(params=["memory", "postgres"])
def log_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("database_url"))


async def test_the_api_serves_edge_threads(log_url: str) -> None:
    async with running_api(database_url=log_url) as api:
        for edge in map(str, EDGES):
            assert (await api.post("/v1/threads", json={"thread_id": edge})).status_code == 201
            said = await api.turn(edge, "What is 2 + 3?")
            assert (said.status_code, said.json()["answer"]) == (200, "calculate says: 5")
            for what in ("", "/state", "/messages", "/events", "/diff?from=0", "/budget", "/approvals"):
                assert (await api.get(f"/v1/threads/{edge}{what}")).status_code == 200
            assert (await api.post(f"/v1/threads/{edge}/verify")).json()["problems"] == []
            fork = await api.post(f"/v1/threads/{edge}/fork", json={})
            assert fork.status_code == 201
        query: dict[str, str | int] = {"limit": 1, "consistency": "strong"}
        listed: list[str] = []
        while True:
            page = (await api.get("/v1/threads", params=query)).json()
            listed += [thread["thread_id"] for thread in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert len(listed) == len(set(listed)) == 4
        assert set(map(str, EDGES)) < set(listed)
        assert (await api.post("/v1/verify")).json()["problems"] == []
        spent = (await api.get("/v1/budgets", params={"thread_id": str(NIL), "consistency": "strong"})).json()
        assert spent[0]["calls"] > 0
