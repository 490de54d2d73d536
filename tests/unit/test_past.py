"""Pages of a thread's past: what they cost, where they end, and that they stay as they are while it goes on."""

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

import api.services.history
from api.http.caller import Caller
from api.runtime.composition import Runtime
from api.schemas.page import Page
from api.services.access_log import AccessLogService
from api.services.history import HistoryCursor, PageRequest, PointInTime, ThreadHistory
from domain.application.command_handler import CommandRequest, execute
from domain.application.queries.transcript import Transcript
from domain.application.thread_repository import ThreadRepository
from domain.errors import InvalidInput
from domain.ids import ThreadId, Version
from domain.thread.codec import Metadata
from domain.thread.commands import OpenThread, UpdateValues
from domain.thread.events import (
    Event,
    MessageAppended,
    StateUpdated,
    ThreadOpened,
    ToolRequested,
    ToolSucceeded,
    TurnStarted,
)
from tests.support.runtime import Clock
from tests.unit.test_thread_repository import CountingStore, NotingSnapshots


class Archive:
    """A thread with events that nobody had to live through, and the past of it."""

    def __init__(self) -> None:
        self.store, self.snapshots, self.clock = CountingStore(), NotingSnapshots(), Clock()
        self.thread_id = ThreadId(uuid4())
        self.repository = self.fresh()

    def fresh(self, fingerprint: str = "this fold") -> ThreadRepository:
        return ThreadRepository(self.store, self.snapshots, self.clock, fingerprint=fingerprint)

    def past(self) -> ThreadHistory:
        """The past as a service that records no accesses."""
        settings = SimpleNamespace(audit_reads=False)
        log = SimpleNamespace(accesses=None)
        known = SimpleNamespace(repository=self.fresh(), log=log, clock=self.clock, settings=settings)
        runtime = cast("Runtime", known)
        return ThreadHistory(runtime, AccessLogService(runtime))

    async def add(self, *events: Event) -> None:
        self.clock.pass_(1)
        await self.repository.append(
            self.repository.chain(await self.repository.load(self.thread_id), events, Metadata())
        )
        self.store.events_read = 0

    async def begin(self) -> None:
        await self.add(ThreadOpened("assistant"), TurnStarted(uuid4(), "n", "f00"))

    async def exchange(self, number: int, calls: int = 0) -> None:
        """A question, an answer with calls, and their results."""
        head = (await self.repository.load(self.thread_id)).head.version
        first = head + 3
        await self.add(
            MessageAppended("user", f"question {number}", 1),
            MessageAppended("assistant", f"answer {number}", 1),
            *[ToolRequested(f"call-{number}-{n}", "clock", {"n": n}) for n in range(calls)],
            *[ToolSucceeded(first + n, f"result {n}", 1, 1) for n in range(calls)],
        )

    async def grow(self, events: int) -> None:
        """Events in which nobody says anything."""
        while events > 0:
            await self.add(*[StateUpdated({"n": n}) for n in range(min(events, 1_000))])
            events -= 1_000


@pytest.fixture
async def archive() -> Archive:
    archive = Archive()
    await archive.begin()
    return archive


async def every(past: ThreadHistory, archive: Archive, what: str = "messages", **asked: Any) -> tuple[list[Any], int]:
    """Follow a list to its end; return its items, and the number of pages."""
    found: list[Any] = []
    pages, cursor = 0, None
    while True:
        page: Page[Any] = await getattr(past, what)(archive.thread_id, PageRequest(cursor=cursor, **asked), Caller())
        found += page.items
        pages += 1
        if page.next_cursor is None:
            return found, pages
        cursor = page.next_cursor


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_latest_first_is_the_same_the_other_way_round(archive: Archive, limit: int) -> None:
    for number in range(4):
        await archive.exchange(number, calls=number)
        await archive.grow(number)
    whole = [message async for message in Transcript(archive.repository, archive.thread_id).read()]
    assert [m.role for m in whole].count("tool") == 6
    for order, expected in (("asc", whole), ("desc", whole[::-1])):
        assert (await every(archive.past(), archive, limit=limit, order=order))[0] == expected


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("scanned", [1, 2, 3, 5, 17])
async def test_a_page_of_messages_looks_through_so_many_events_and_loses_no_call(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, order: str, scanned: int
) -> None:
    for number in range(3):
        await archive.exchange(number, calls=4)
        await archive.grow(20)
    whole = [message async for message in Transcript(archive.repository, archive.thread_id).read()]
    monkeypatch.setattr(api.services.history, "MAX_SCANNED_EVENTS", scanned)
    found, pages = await every(archive.past(), archive, limit=50, order=order)
    assert found == (whole if order == "asc" else whole[::-1])
    assert pages > 60 / scanned


async def test_a_page_costs_the_same_at_any_age(archive: Archive) -> None:
    costs: dict[str, set[int]] = {}
    for _ in range(3):
        await archive.exchange(0, calls=2)
        await archive.grow(3_000)
        await archive.exchange(1, calls=2)
        head = (await archive.repository.load(archive.thread_id)).head.version
        for what, ask in QUESTIONS.items():
            archive.store.events_read = 0
            await ask(archive, head)
            costs.setdefault(what, set()).add(archive.store.events_read)
    assert {what: len(found) for what, found in costs.items()} == dict.fromkeys(costs, 1), costs
    assert max(max(found) for found in costs.values()) <= 200


async def _last_messages(archive: Archive, _head: Version) -> object:
    return await archive.past().messages(archive.thread_id, PageRequest(3, order="desc"), Caller())


async def _last_events(archive: Archive, _head: Version) -> object:
    return await archive.past().events(archive.thread_id, PageRequest(10, order="desc"), Caller())


async def _first_events(archive: Archive, _head: Version) -> object:
    return await archive.past().events(archive.thread_id, PageRequest(10, point=PointInTime(version=20)), Caller())


async def _late_events(archive: Archive, head: Version) -> object:
    return await archive.past().events(archive.thread_id, PageRequest(10, HistoryCursor("asc", head - 20)), Caller())


async def _first_messages(archive: Archive, _head: Version) -> object:
    return await archive.past().messages(archive.thread_id, PageRequest(2, point=PointInTime(version=8)), Caller())


QUESTIONS = {
    function.__name__: function
    for function in (_last_messages, _last_events, _first_events, _late_events, _first_messages)
}


class TestACursor:
    @pytest.mark.parametrize("what", ["events", "messages"])
    async def test_goes_on_in_what_was_there_at_first(self, archive: Archive, what: str) -> None:
        for number in range(4):
            await archive.exchange(number)
        whole = [item.version for item in (await every(archive.past(), archive, what, limit=100))[0]]
        later = PointInTime(at=archive.clock.time.replace(year=2030))
        found: list[Version] = []
        cursor = None
        while not found or len(found) < len(whole):
            asked = PageRequest(3, point=later, cursor=cursor)
            page: Page[Any] = await getattr(archive.past(), what)(archive.thread_id, asked, Caller())
            found += [item.version for item in page.items]
            await archive.exchange(99)
            cursor = page.next_cursor
        assert found == whole
        assert page.next_cursor is None

    async def test_of_a_list_without_an_end_meets_what_happens_meanwhile(self, archive: Archive) -> None:
        await archive.exchange(0)
        first = await archive.past().events(archive.thread_id, PageRequest(3), Caller())
        await archive.exchange(1)
        assert first.next_cursor is not None
        rest = await archive.past().events(archive.thread_id, PageRequest(10, cursor=first.next_cursor), Caller())
        assert [event.version for event in rest.items] == [4, 5, 6]

    async def test_is_refused_elsewhere(self, archive: Archive) -> None:
        await archive.exchange(0)
        for asked in (
            PageRequest(3, HistoryCursor("desc", 1)),
            PageRequest(3, HistoryCursor("asc", 1, 4)),
            PageRequest(3, HistoryCursor("asc", 1, 4), PointInTime(version=3)),
            PageRequest(3, HistoryCursor("asc", 1, 9), PointInTime(version=9)),
            PageRequest(3, HistoryCursor("asc", 1), PointInTime(version=3)),
        ):
            for read in (archive.past().events, archive.past().messages):
                with pytest.raises(InvalidInput, match="cursor: must be"):
                    await read(archive.thread_id, asked, Caller())


class TestADiff:
    async def test_says_how_far_it_counted(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        await archive.exchange(0)
        await archive.grow(50)
        monkeypatch.setattr(api.services.history, "MAX_COUNTED_EVENTS", 10)
        diff = await archive.past().diff(archive.thread_id, PointInTime(version=2), PointInTime(), 100, None, Caller())
        assert (diff.truncated, diff.counted_to, sum(diff.counts.events.values())) == (True, 12, 10)
        assert diff.until.version == 54
        assert len(diff.happened.items) == 52
        assert diff.changes.values

    async def test_goes_on_to_where_it_ended_at_first(self, archive: Archive) -> None:
        await archive.exchange(0)
        since, until = PointInTime(None, None, "from", "from_time"), PointInTime()
        with pytest.raises(InvalidInput, match="from: is required"):
            await archive.past().diff(archive.thread_id, since, until, 2, None, Caller())
        first = await archive.past().diff(archive.thread_id, PointInTime(version=0), until, 3, None, Caller())
        assert first.happened.next_cursor is not None
        await archive.exchange(1)
        cursor = first.happened.next_cursor
        rest = await archive.past().diff(archive.thread_id, PointInTime(version=0), until, 3, cursor, Caller())
        assert [told.version for told in rest.happened.items] == [4]
        assert (rest.until, rest.changes, rest.counts) == (first.until, first.changes, first.counts)

    async def test_of_nothing_is_empty(self, archive: Archive) -> None:
        diff = await archive.past().diff(
            archive.thread_id, PointInTime(version=2), PointInTime(version=2), 10, None, Caller()
        )
        assert (diff.counts.events, diff.happened.items, diff.happened.next_cursor) == ({}, [], None)

    async def test_from_before_the_thread_begins_with_nothing(self, archive: Archive) -> None:
        early = archive.clock.time.replace(year=2001)
        diff = await archive.past().diff(archive.thread_id, PointInTime(at=early), PointInTime(), 10, None, Caller())
        assert (diff.since.version, diff.since.checkpoint, diff.since.status) == (0, None, "unopened")

    async def test_finds_what_is_said_about_calls_before_it(self, archive: Archive) -> None:
        await archive.exchange(0, calls=1)
        diff = await archive.past().diff(archive.thread_id, PointInTime(version=5), PointInTime(), 10, None, Caller())
        assert [told.sentence for told in diff.happened.items] == ['clock answered in 1 ms: "result 0"']
        assert diff.counts.tool_calls["clock"].succeeded == 1


async def test_whoever_folds_a_long_way_leaves_snapshots_for_the_next_one() -> None:
    archive = Archive()
    await execute(
        archive.repository, CommandRequest(archive.thread_id, lambda _: (OpenThread("assistant"), UpdateValues({})))
    )
    for number in range(3):
        await archive.add(*[StateUpdated({"n": 1_000 * number + n}) for n in range(1_000)])
    assert archive.snapshots.saved == []
    read: list[int] = []
    for _ in range(2):
        archive.store.events_read = 0
        then = await archive.fresh().load_at(archive.thread_id, Version(2_900))
        read.append(archive.store.events_read)
    assert read == [2_900, 0]
    assert archive.snapshots.saved == [1_000, 2_000, 2_900]
    assert then.state == (await archive.fresh("another fold").load_at(archive.thread_id, Version(2_900))).state
