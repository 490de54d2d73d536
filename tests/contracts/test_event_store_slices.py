"""The event store's contract, third part: reading many slices at once."""

from itertools import islice

import pytest

from domain.ids import SLICES, Position, Slice, Tenant, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.log import EventStore
from tests.streams import ACME, NOON, appending, new_thread, numbered, threads_of

OTHER = Tenant("other")
HERE, THERE, EMPTY = Slice(3), Slice(700), Slice(5)


@pytest.fixture
async def store(event_store: EventStore) -> EventStore:
    """Give a store with two of ours, one of theirs and two of ours in one slice, and three of ours in another."""
    one, theirs, two = islice(threads_of(HERE), 3)
    await event_store.append(appending(one, EMPTY_HEAD, *numbered(2)))
    await event_store.append(appending(theirs, EMPTY_HEAD, "{}", tenant=OTHER))
    await event_store.append(appending(two, EMPTY_HEAD, *numbered(2)))
    await event_store.append(appending(next(threads_of(THERE)), EMPTY_HEAD, *numbered(3)))
    return event_store


async def read(store: EventStore, after: dict[Slice, int], limit: int = 100, look: int = 100) -> tuple[object, object]:
    asked = {slice_: Position(position) for slice_, position in after.items()}
    stretch = await store.read_slices(asked, ACME, limit=limit, look=look)
    return [(slice_of(r.thread_id), r.position) for r in stretch.records], stretch.seen


class TestReadSlices:
    async def test_finds_the_tenants_records_in_order_and_says_how_far_it_looked(self, store: EventStore) -> None:
        found, seen = await read(store, {HERE: 0, EMPTY: 0, THERE: 1})

        assert found == [(HERE, 1), (HERE, 2), (HERE, 4), (HERE, 5), (THERE, 2), (THERE, 3)]
        assert seen == {HERE: 5, THERE: 3}

    async def test_records_come_as_they_were_stored(self, store: EventStore) -> None:
        stretch = await store.read_slices({HERE: Position(3)}, ACME, limit=10, look=10)

        assert list(stretch.records) == list(await store.read_slice(HERE, Position(3), 10))

    async def test_takes_the_slices_in_the_order_that_it_is_given(self, store: EventStore) -> None:
        found, seen = await read(store, {THERE: 2, HERE: 4})

        assert found == [(THERE, 3), (HERE, 5)]
        assert seen == {THERE: 3, HERE: 5}

    @pytest.mark.parametrize(
        ("limit", "look", "found", "seen"),
        [
            (1, 100, [1], {HERE: 1}),
            (2, 100, [1, 2], {HERE: 3}),
            (3, 100, [1, 2, 4], {HERE: 4}),
            (100, 1, [1], {HERE: 1}),
            (100, 3, [1, 2], {HERE: 3}),
            (100, 5, [1, 2, 4, 5], {HERE: 5}),
            (4, 100, [1, 2, 4, 5], {HERE: 5}),
        ],
    )
    async def test_stops_where_enough_was_found_or_looked_at(
        self, store: EventStore, limit: int, look: int, found: list[int], seen: dict[Slice, int]
    ) -> None:
        assert await read(store, {HERE: 0, THERE: 0}, limit, look) == ([(HERE, place) for place in found], seen)

    async def test_going_on_after_what_was_seen_gives_everything_once(self, store: EventStore) -> None:
        for limit in (1, 2, 3):
            for look in (1, 2, 5):
                after = {HERE: Position(0), THERE: Position(0)}
                everything: list[tuple[Slice, Position]] = []
                while (stretch := await store.read_slices(after, ACME, limit=limit, look=look)).seen:
                    assert len(stretch.records) <= limit
                    everything += [(slice_of(r.thread_id), r.position) for r in stretch.records]
                    after |= stretch.seen
                places = [(HERE, 1), (HERE, 2), (HERE, 4), (HERE, 5), (THERE, 1), (THERE, 2), (THERE, 3)]
                assert everything == places

    async def test_finds_some_types_only(self, store: EventStore) -> None:
        none = await store.read_slices({HERE: Position(0)}, ACME, ["Other"], limit=10, look=10)
        some = await store.read_slices({HERE: Position(0)}, ACME, ["Other", "NoteTaken"], limit=10, look=10)
        nobody = await store.read_slices({HERE: Position(0)}, ACME, [], limit=10, look=10)

        assert (list(none.records), none.seen) == ([], {HERE: 5})
        assert len(some.records) == 4
        assert list(nobody.records) == []

    async def test_there_is_nothing_in_no_slices(self, store: EventStore) -> None:
        assert await read(store, {}) == ([], {})


async def test_heads_say_where_all_slices_end(event_store: EventStore) -> None:
    assert list(await event_store.slice_heads()) == [0] * SLICES

    appends = [appending(new_thread(), EMPTY_HEAD, *numbered(3), at=NOON) for _ in range(20)]
    for append in appends:
        await event_store.append(append)

    expected = [await event_store.slice_head(Slice(number)) for number in range(SLICES)]
    assert list(await event_store.slice_heads()) == expected
    assert sum(expected) == 60
