"""Every read of an event store is bounded in bytes, and has at least one record where there is one."""

import pytest

from domain.ids import Position, Slice, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record
from domain.ports.log import MAX_UNWEIGHED_RECORDS, EventStore, may_have_more
from tests.streams import ACME, appending, new_thread, threads_of

KB = 1_000
START = Version(0)

TEXTS = {
    "plain": "0123456789abcdef",
    "compressed": "x",
    "three bytes a character": "漢",
    "four bytes a character": "🙂",
}


def payload(size: int, text: str = "x") -> str:
    """Make JSON of so many bytes in UTF-8, or a few less."""
    return '{"t":"' + text * ((size - 8) // len(text.encode())) + '"}'


def sizes(page: object) -> list[int]:
    return [len(record.payload.encode()) for record in page]  # type: ignore[attr-defined]


async def test_a_page_of_a_thread_ends_with_the_record_that_fills_it(event_store: EventStore) -> None:
    thread_id = new_thread()
    await event_store.append(appending(thread_id, EMPTY_HEAD, *[payload(10 * KB)] * 10))

    page = await event_store.read(thread_id, START, limit=100, room=35 * KB)

    assert [record.version for record in page] == [1, 2, 3, 4]


async def test_a_page_has_at_least_one_record(event_store: EventStore) -> None:
    thread_id = new_thread()
    await event_store.append(appending(thread_id, EMPTY_HEAD, *[payload(100 * KB)] * 3))

    assert len(await event_store.read(thread_id, START, limit=100, room=1)) == 1
    assert len(await event_store.read_slice(slice_of(thread_id), Position(0), 100, 1)) == 1
    assert len(await event_store.read_after({slice_of(thread_id): Position(0)}, 100, 1)) == 1
    found = await event_store.read_slices({slice_of(thread_id): Position(0)}, ACME, limit=100, look=100, room=1)
    assert len(found.records) == 1


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_page_that_was_cut_is_never_taken_for_the_last_one(event_store: EventStore, text: str) -> None:
    """Whichever text it is of, and however the store keeps it: who reads on while there may be more has everything."""
    thread_id = new_thread()
    for _ in range(4):
        row = await event_store.thread(thread_id)
        head = row.head if row else EMPTY_HEAD
        await event_store.append(appending(thread_id, head, *[payload(n * KB, text) for n in (1, 30, 2, 60, 5)]))
    room = 64 * KB
    read: list[Record] = []
    more = True
    while more:
        page = await event_store.read(thread_id, Version(len(read)), limit=100, room=room)
        assert sum(sizes(page)[:-1]) <= room, "but for its last record, it fits"
        read += page
        more = may_have_more([len(record.payload) for record in page], 100, room)

    assert [record.version for record in read] == [*range(1, 21)]


async def test_a_slice_is_read_in_pages_that_fit(event_store: EventStore) -> None:
    slice_ = Slice(7)
    for thread_id in [next(threads_of(slice_)) for _ in range(3)]:
        await event_store.append(appending(thread_id, EMPTY_HEAD, *[payload(10 * KB)] * 3))

    pages = []
    last = Position(0)
    while page := await event_store.read_slice(slice_, last, 100, 25 * KB):
        pages.append([record.position for record in page])
        last = page[-1].position

    assert pages == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


async def test_slices_are_read_together_in_their_given_order_as_far_as_they_fit(event_store: EventStore) -> None:
    for number in (3, 8, 5):
        await event_store.append(appending(next(threads_of(Slice(number))), EMPTY_HEAD, *[payload(10 * KB)] * 3))

    page = await event_store.read_after({Slice(number): Position(0) for number in (8, 3, 5)}, 100, 45 * KB)

    read = [(slice_of(record.thread_id), record.position) for record in page]
    assert read == [(8, 1), (8, 2), (8, 3), (3, 1), (3, 2)]


async def test_looking_through_slices_ends_where_what_was_found_fills_a_page(event_store: EventStore) -> None:
    for number in (3, 5):
        thread_id = next(threads_of(Slice(number)))
        await event_store.append(appending(thread_id, EMPTY_HEAD, *[payload(10 * KB)] * 3))
    after = {Slice(5): Position(0), Slice(3): Position(0)}

    found = await event_store.read_slices(after, ACME, limit=100, look=100, room=35 * KB)

    read = [(slice_of(record.thread_id), record.position) for record in found.records]
    assert read == [(5, 1), (5, 2), (5, 3), (3, 1)]
    assert found.seen == {5: 3, 3: 1}


async def test_a_few_records_may_be_asked_for_whatever_they_take(event_store: EventStore) -> None:
    thread_id = new_thread()
    await event_store.append(appending(thread_id, EMPTY_HEAD, *[payload(10 * KB)] * 9))

    page = await event_store.read(thread_id, START, limit=MAX_UNWEIGHED_RECORDS, room=1)

    assert 1 <= len(page) <= MAX_UNWEIGHED_RECORDS
    assert may_have_more([len(record.payload) for record in page], MAX_UNWEIGHED_RECORDS, 1)
