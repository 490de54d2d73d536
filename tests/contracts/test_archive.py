"""What every store does with its log as a whole: it shows it as it was at one moment, and takes another one in."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace

from api.runtime.stores import LogArchive
from domain.application.archive import all_commands
from domain.errors import CorruptLog, LogNotEmpty
from domain.ids import SLICES, Position, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record
from domain.ports.archive import LogView, StoredCommand
from domain.ports.log import Append, EventStore, ThreadRow
from infrastructure.memory.event_store import MemoryEventStore
from tests.streams import ACME, NOON, SECOND, a_command, appending, new_thread, numbered, threads_of


async def commands_of(view: LogView, size: int) -> list[StoredCommand]:
    found: list[StoredCommand] = []
    while page := await view.commands(found[-1] if found else None, size):
        assert len(page) <= size
        found += page
    return found


def place(stored: StoredCommand) -> tuple[Slice, object]:
    return slice_of(stored.thread_id), stored.command.id


class TestView:
    async def test_shows_heads_and_commands_in_pages(self, event_store: EventStore, archive: LogArchive) -> None:
        appends = [appending(new_thread(), EMPTY_HEAD, "{}", "{}", command=a_command()) for _ in range(7)]
        for append in appends:
            await event_store.append(append)

        async with archive.view() as view:
            found = await commands_of(view, 3)
            heads = view.heads

        assert list(heads) == list(await event_store.slice_heads())
        assert found == sorted(found, key=place)
        expected = {(append.tenant, append.thread_id, append.command) for append in appends}
        assert {(stored.tenant, stored.thread_id, stored.command) for stored in found} == expected
        assert all(stored.at.tzinfo for stored in found)

    async def test_does_not_move(self, event_store: EventStore, archive: LogArchive) -> None:
        """A command without its events would answer repetitions with what is not in the log."""
        before = appending(new_thread(), EMPTY_HEAD, "{}", command=a_command())
        await event_store.append(before)

        async with archive.view() as view:
            await event_store.append(appending(new_thread(), EMPTY_HEAD, "{}", command=a_command()))
            found = await commands_of(view, 10)
            heads = view.heads

        assert [stored.command for stored in found] == [before.command]
        assert sum(heads) == 1

    async def test_of_an_empty_log_is_empty(self, archive: LogArchive) -> None:
        async with archive.view() as view:
            assert list(view.heads) == [0] * SLICES
            assert [page async for page in all_commands(view)] == []


async def other_log() -> tuple[Sequence[Append], Sequence[Record], MemoryEventStore]:
    """Make a log elsewhere: 3 threads of a slice, and a fork of one of them in another slice."""
    store = MemoryEventStore()
    appends = [
        appending(thread, EMPTY_HEAD, *numbered(3), command=a_command()) for thread in islice(threads_of(SLICE), 3)
    ]
    fork = replace(appending(FORK, appends[0].head, '"forked"', at=NOON + SECOND), forked=True)
    for append in (*appends, fork):
        await store.append(append)
    records = [
        record for number in range(SLICES) for record in await store.read_slice(Slice(number), Position(0), 1_000)
    ]
    return appends, records, store


async def write(
    archive: LogArchive,
    events: Sequence[Sequence[Record]],
    commands: Sequence[Sequence[StoredCommand]] = (),
    at_the_end: Callable[[], object] = lambda: None,
) -> None:
    async with archive.writing() as writing:
        for records in events:
            await writing.add_events(records)
        for part in commands:
            await writing.add_commands(part)
        at_the_end()


SLICE = Slice(77)
FORK = next(threads_of(Slice(78)))


class TestWriting:
    async def test_what_was_written_is_read_as_from_the_store_that_it_comes_from(
        self, event_store: EventStore, archive: LogArchive
    ) -> None:
        appends, records, origin = await other_log()
        rows: list[ThreadRow] = []
        async with archive.writing() as writing:
            await writing.add_events(records[5:])
            await writing.add_events(records[:5])
            await writing.add_commands(origin.commands())
            await writing.set_heads(await origin.slice_heads())
            for slice_ in (SLICE, slice_of(FORK)):
                after: ThreadId | None = None
                while ends := await writing.thread_ends(slice_, after, 2):
                    rows += [end.row for end in ends]
                    after = ends[-1].row.thread_id
            assert [row.thread_id for row in rows[:3]] == sorted(append.thread_id for append in appends)
            await writing.add_threads([replace(row, in_turn=True, waiting=True) for row in rows])

        assert list(await event_store.slice_heads()) == list(await origin.slice_heads())
        for append in appends:
            assert append.command is not None
            assert await event_store.command(append.thread_id, append.command.id) == append.command
        for thread_id in [*(append.thread_id for append in appends), FORK]:
            assert list(await event_store.read(thread_id, Version(0))) == list(await origin.read(thread_id, Version(0)))
            kept = await origin.thread(thread_id)
            assert kept is not None
            assert await event_store.thread(thread_id) == replace(kept, in_turn=True, waiting=True)
        async with archive.view() as view:
            assert await commands_of(view, 100) == sorted(origin.commands(), key=place)
        more = appending(appends[0].thread_id, appends[0].head, "{}", at=NOON + SECOND)
        assert await event_store.append(more) == 10

    async def test_a_fork_that_has_no_row_yet_can_be_read(self, archive: LogArchive) -> None:
        _, records, _ = await other_log()
        async with archive.writing() as writing:
            await writing.add_events(records)
            assert [record.version for record in await writing.written.read(FORK, Version(0))] == [4]
            assert await writing.written.read(FORK, Version(0), Version(3)) == []

    async def test_the_ends_of_threads_say_where_a_fork_begins_and_what_came_last(self, archive: LogArchive) -> None:
        _, records, _ = await other_log()
        async with archive.writing() as writing:
            await writing.add_events(records)
            (fork,) = await writing.thread_ends(slice_of(FORK), None, 10)
        assert (fork.row.base, fork.row.head.version, fork.last_type) == (3, 4, "NoteTaken")
        assert (fork.row.tenant, fork.row.opened_at, fork.row.head.at) == (ACME, NOON + SECOND, NOON + SECOND)

    async def test_nothing_is_kept_of_what_does_not_end_well(
        self, event_store: EventStore, archive: LogArchive
    ) -> None:
        _, records, origin = await other_log()
        with pytest.raises(ZeroDivisionError):
            await write(archive, [records], [origin.commands()], at_the_end=lambda: 1 // 0)
        assert list(await event_store.slice_heads()) == [0] * SLICES
        assert await event_store.read_slice(SLICE, Position(0), 10) == []
        async with archive.writing() as writing:
            await writing.add_events(records)

    async def test_a_store_that_has_something_takes_nothing(self, event_store: EventStore, archive: LogArchive) -> None:
        await event_store.append(appending(new_thread(), EMPTY_HEAD, "{}"))
        with pytest.raises(LogNotEmpty):
            async with archive.writing():
                raise AssertionError("there was nothing to begin")

    @pytest.mark.parametrize(
        "unfit",
        [
            {"payload": "{"},
            {"payload": "[" * 100_000 + "]" * 100_000},
            {"metadata": "no"},
            {"tenant": "a\0b"},
            {"tenant": "\ud800"},
            {"type": "\0"},
            {"version": 2**40},
            {"schema": 99_999},
            {"position": 2**63},
        ],
        ids=lambda unfit: str(unfit)[:40],
    )
    async def test_what_no_log_can_have_is_refused(
        self, event_store: EventStore, archive: LogArchive, unfit: dict[str, Any]
    ) -> None:
        _, records, _ = await other_log()
        with pytest.raises(CorruptLog):
            await write(archive, [records[1:], [replace(records[0], **unfit)]])
        assert list(await event_store.slice_heads()) == [0] * SLICES
        assert await event_store.read_slice(SLICE, Position(0), 10) == []
        await write(archive, [records])

    @pytest.mark.parametrize("unfit", [{"result": "{"}, {"result": "NaN"}, {"tenant": "a\0b"}], ids=str)
    async def test_commands_that_no_log_can_have_are_refused(
        self, event_store: EventStore, archive: LogArchive, unfit: dict[str, Any]
    ) -> None:
        _, records, origin = await other_log()
        first, *others = origin.commands()
        tenant = unfit.get("tenant", first.tenant)
        forged = replace(first, tenant=tenant, command=replace(first.command, result=unfit.get("result", "1")))
        with pytest.raises(CorruptLog):
            await write(archive, [records], [[*others, forged]])
        assert list(await event_store.slice_heads()) == [0] * SLICES
        for stored in origin.commands():
            assert await event_store.command(stored.thread_id, stored.command.id) is None

    @pytest.mark.parametrize("wrong", ["nothing", "tenant", "thread"])
    async def test_a_command_without_a_thread_of_its_tenant_is_found(self, archive: LogArchive, wrong: str) -> None:
        appends, records, origin = await other_log()
        first, *others = origin.commands()
        if wrong == "tenant":
            first = replace(first, tenant=Tenant("other"))
        rows = [row for append in appends if (row := await origin.thread(append.thread_id))]
        async with archive.writing() as writing:
            await writing.add_events(records)
            await writing.add_commands([first, *others])
            await writing.add_threads([row for row in rows if wrong != "thread" or row.thread_id != first.thread_id])
            stray = await writing.stray_command()
        expected = None if wrong == "nothing" else (first.tenant, first.thread_id, first.command)
        assert (stray and (stray.tenant, stray.thread_id, stray.command)) == expected

    async def test_no_event_comes_twice(self, event_store: EventStore, archive: LogArchive) -> None:
        _, records, origin = await other_log()
        for again in (records[0], replace(records[0], version=Version(9))):
            with pytest.raises(CorruptLog):
                await write(archive, [records, [again]])
        with pytest.raises(CorruptLog):
            await write(archive, [], [origin.commands(), origin.commands()[:1]])
        assert list(await event_store.slice_heads()) == [0] * SLICES
