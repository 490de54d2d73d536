"""The event store's contract, second part: finding threads."""

from dataclasses import dataclass

from hypothesis import strategies as st
from msgspec.structs import replace

from domain.ids import Shard, Tenant, ThreadId, Version, shard_of, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.log import EventStore, ThreadCursor, ThreadRow
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
        opened = [appending(new_thread(), EMPTY_HEAD, "{}", at=NOON + (n // 3) * SECOND) for n in range(10)]
        for append in opened:
            await event_store.append(append)

        pages = await Listing(event_store).pages(3)

        listed = [row for page in pages for row in page]
        assert [len(page) for page in pages] == [3, 3, 3, 1]
        assert {row.thread_id for row in listed} == {append.thread_id for append in opened}
        assert listed == sorted(listed, key=lambda row: (row.opened_at, row.thread_id), reverse=True)

    async def test_a_thread_that_goes_on_keeps_its_place(self, event_store: EventStore) -> None:
        opened = [appending(new_thread(), EMPTY_HEAD, "{}", at=NOON + n * SECOND) for n in range(4)]
        for append in opened:
            await event_store.append(append)
        before = await event_store.threads(ACME, None, 10)

        await event_store.append(appending(opened[0].thread_id, opened[0].head, "{}", at=NOON + 60 * SECOND))
        await event_store.append(appending(new_thread(), EMPTY_HEAD, "{}", at=NOON + 60 * SECOND))

        cursor = ThreadCursor(before[1].opened_at, before[1].thread_id)
        after = await event_store.threads(ACME, cursor, 10)
        assert [row.thread_id for row in after] == [opened[1].thread_id, opened[0].thread_id]

    async def test_nobody_sees_another_tenants_threads(self, event_store: EventStore) -> None:
        mine, theirs = (
            appending(new_thread(), EMPTY_HEAD, "{}"),
            appending(new_thread(), EMPTY_HEAD, "{}", tenant=OTHER),
        )
        for append in (mine, theirs):
            await event_store.append(append)

        assert [row.thread_id for row in await event_store.threads(ACME, None, 10)] == [mine.thread_id]
        assert [row.thread_id for row in await event_store.threads(OTHER, None, 10)] == [theirs.thread_id]
        assert list(await event_store.threads(Tenant("nobody"), None, 10)) == []


def in_shard(shard: Shard) -> ThreadId:
    return next(id_ for _ in range(100_000) if shard_of(slice_of(id_ := new_thread())) == shard)


class TestRunnable:
    async def test_lists_what_there_is_to_run_in_some_shards_page_by_page(self, event_store: EventStore) -> None:
        here, elsewhere = Shard(3), Shard(4)
        idle = appending(in_shard(here), EMPTY_HEAD, "{}", at=NOON)
        running = [appending(in_shard(here), EMPTY_HEAD, "{}", at=NOON, in_turn=True) for _ in range(5)]
        waiting = replace(appending(in_shard(here), EMPTY_HEAD, "{}", at=NOON), waiting=True)
        other = appending(in_shard(elsewhere), EMPTY_HEAD, "{}", at=NOON, in_turn=True)
        for append in (idle, *running, waiting, other):
            await event_store.append(append)

        async def runnable(*shards: Shard, limit: int = 10, after: ThreadId | None = None) -> list[ThreadId]:
            return [row.thread_id for row in await event_store.runnable(shards, limit, after)]

        assert await runnable() == []
        in_order = sorted((append.thread_id for append in running), key=lambda id_: (slice_of(id_), id_))
        assert await runnable(here) == in_order
        assert await runnable(here, limit=2) == in_order[:2]
        assert await runnable(here, limit=2, after=in_order[1]) == in_order[2:4]
        assert await runnable(here, after=in_order[-1]) == []
        assert await runnable(here, elsewhere) == [*in_order, other.thread_id]
        row = await event_store.thread(waiting.thread_id)
        assert row is not None
        assert (row.in_turn, row.waiting) == (False, True)

        first = next(append for append in running if append.thread_id == in_order[0])
        await event_store.append(appending(first.thread_id, first.head, "{}", at=NOON + 2 * SECOND))
        assert await runnable(here) == in_order[1:]


async def test_versions_say_where_threads_end(event_store: EventStore) -> None:
    one, two = appending(new_thread(), EMPTY_HEAD, "{}"), appending(new_thread(), EMPTY_HEAD, "{}", "{}")
    await event_store.append(one)
    await event_store.append(two)
    asked = [one.thread_id, two.thread_id, new_thread()]
    assert await event_store.versions(asked) == {one.thread_id: 1, two.thread_id: 2}
    assert await event_store.versions([]) == {}
