"""The event store's contract, second part: finding threads."""

from dataclasses import dataclass
from datetime import datetime

from hypothesis import strategies as st

from domain.chain import NOTHING
from domain.ids import Tenant, ThreadId, Version
from domain.ports import EventStore, ThreadCursor, ThreadRow
from tests.streams import ACME, NOON, SECOND, appending, new_thread

OTHER = Tenant("other")
START = Version(0)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)


@dataclass
class Listing:
    store: EventStore
    tenant: Tenant = ACME

    async def pages(self, size: int) -> list[list[ThreadRow]]:
        pages: list[list[ThreadRow]] = []
        cursor = None
        while page := list(await self.store.threads(self.tenant, cursor, size)):
            pages.append(page)
            cursor = ThreadCursor(page[-1].opened_at, page[-1].thread_id)
        return pages


class TestThreads:
    async def test_pages_hold_every_thread_once_the_last_opened_first(self, event_store: EventStore) -> None:
        opened = [appending(new_thread(), NOTHING, "{}", at=NOON + (n // 3) * SECOND) for n in range(10)]
        for append in opened:
            await event_store.append(append)

        pages = await Listing(event_store).pages(3)

        listed = [row for page in pages for row in page]
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert {row.thread_id for row in listed} == {append.thread_id for append in opened}
        assert listed == sorted(listed, key=lambda row: (row.opened_at, row.thread_id), reverse=True)

    async def test_a_thread_that_goes_on_keeps_its_place(self, event_store: EventStore) -> None:
        opened = [appending(new_thread(), NOTHING, "{}", at=NOON + n * SECOND) for n in range(4)]
        for append in opened:
            await event_store.append(append)
        before = await event_store.threads(ACME, None, 10)

        await event_store.append(appending(opened[0].thread_id, opened[0].head, "{}", at=NOON + 60 * SECOND))
        await event_store.append(appending(new_thread(), NOTHING, "{}", at=NOON + 60 * SECOND))

        cursor = ThreadCursor(before[1].opened_at, before[1].thread_id)
        after = await event_store.threads(ACME, cursor, 10)
        assert [row.thread_id for row in after] == [opened[1].thread_id, opened[0].thread_id]

    async def test_nobody_sees_another_tenants_threads(self, event_store: EventStore) -> None:
        mine, theirs = appending(new_thread(), NOTHING, "{}"), appending(new_thread(), NOTHING, "{}", tenant=OTHER)
        for append in (mine, theirs):
            await event_store.append(append)

        assert [row.thread_id for row in await event_store.threads(ACME, None, 10)] == [mine.thread_id]
        assert [row.thread_id for row in await event_store.threads(OTHER, None, 10)] == [theirs.thread_id]
        assert list(await event_store.threads(Tenant("nobody"), None, 10)) == []


class TestStalled:
    async def test_only_turns_without_a_recent_event_are_stalled_the_oldest_first(
        self, event_store: EventStore
    ) -> None:
        idle = appending(new_thread(), NOTHING, "{}", at=NOON)
        old = appending(new_thread(), NOTHING, "{}", at=NOON + SECOND, in_turn=True)
        older = appending(new_thread(), NOTHING, "{}", at=NOON, in_turn=True)
        recent = appending(new_thread(), NOTHING, "{}", at=NOON + 10 * SECOND, in_turn=True)
        for append in (idle, old, older, recent):
            await event_store.append(append)

        async def stalled(before: datetime, limit: int = 10) -> list[ThreadId]:
            return [row.thread_id for row in await event_store.stalled(before, limit)]

        assert await stalled(NOON) == []
        assert await stalled(NOON + 10 * SECOND) == [older.thread_id, old.thread_id]
        assert await stalled(NOON + 11 * SECOND, 1) == [older.thread_id]

        await event_store.append(appending(older.thread_id, older.head, "{}", at=NOON + 2 * SECOND))
        assert await stalled(NOON + 10 * SECOND) == [old.thread_id]
