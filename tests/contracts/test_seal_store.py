"""The contract of seal stores, and of the methods of event stores that sealing uses."""

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from domain.errors import CorruptLog
from domain.ids import SLICES, Position, Slice, Tenant, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.log.seal import Seal
from domain.ports.log import EventStore
from domain.ports.seals import SealStore
from tests.streams import ACME, NOON, appending, new_thread, numbered, threads_of

OTHER = Tenant("other")
SIZES = (*range(SLICES - 1), 2**62)


def a_seal(number: int) -> Seal:
    return Seal(number, NOON + timedelta(hours=number), SIZES, b"r" * 32, b"p" * 32, b"k" * 32, b"s" * 64)


class TestSeals:
    async def test_without_seals_there_is_none(self, seal_store: SealStore) -> None:
        assert await seal_store.last() is None
        assert await seal_store.get(1) is None
        assert list(await seal_store.page(0, 10)) == []

    async def test_a_seal_is_kept_as_it_was(self, seal_store: SealStore) -> None:
        assert await seal_store.append(a_seal(1))
        assert await seal_store.append(a_seal(2))

        assert await seal_store.get(1) == a_seal(1)
        assert await seal_store.last() == a_seal(2)
        for none in (-1, 0, 3, 2**70):
            assert await seal_store.get(none) is None

    @pytest.mark.parametrize("number", [1, 2, 4])
    async def test_only_the_next_number_is_taken(self, seal_store: SealStore, number: int) -> None:
        for kept in (a_seal(1), a_seal(2)):
            await seal_store.append(kept)

        assert not await seal_store.append(replace(a_seal(number), root=b"x" * 32))

        assert list(await seal_store.page(0, 10)) == [a_seal(1), a_seal(2)]

    async def test_of_many_that_race_one_is_taken(self, seal_store: SealStore) -> None:
        for number in (1, 2, 3):
            racing = [replace(a_seal(number), root=bytes([n]) * 32) for n in range(20)]
            assert sum(await asyncio.gather(*map(seal_store.append, racing))) == 1

    async def test_seals_come_in_pages(self, seal_store: SealStore) -> None:
        for number in range(1, 6):
            await seal_store.append(a_seal(number))

        async def numbers(after: int, limit: int) -> list[int]:
            return [seal.number for seal in await seal_store.page(after, limit)]

        assert [await numbers(0, 2), await numbers(2, 2), await numbers(4, 2)] == [[1, 2], [3, 4], [5]]
        assert await numbers(2**70, 2) == []


class TestHashes:
    async def test_are_those_of_the_records_in_their_order(self, event_store: EventStore) -> None:
        slice_ = Slice(7)
        for thread_id, _ in zip(threads_of(slice_), range(3), strict=False):
            await event_store.append(appending(thread_id, EMPTY_HEAD, *numbered(2)))
        expected = [record.hash for record in await event_store.read_slice(slice_, Position(0), 10)]

        assert len(expected) == 6
        assert list(await event_store.hashes(slice_, Position(6))) == expected
        assert list(await event_store.hashes(slice_, Position(4))) == expected[:4]
        assert list(await event_store.hashes(slice_, Position(5), Position(2))) == expected[2:5]
        assert list(await event_store.hashes(slice_, Position(0))) == []
        assert list(await event_store.hashes(Slice(8), Position(0))) == []

    async def test_that_are_not_there_are_missed(self, event_store: EventStore) -> None:
        append = appending(new_thread(), EMPTY_HEAD, *numbered(2))
        await event_store.append(append)

        with pytest.raises(CorruptLog, match="positions 3 to 5 are missing"):
            await event_store.hashes(slice_of(append.thread_id), Position(5))


async def test_heads_are_those_of_all_slices(event_store: EventStore) -> None:
    append = appending(new_thread(), EMPTY_HEAD, *numbered(3))
    await event_store.append(append)

    heads = await event_store.slice_heads()

    assert len(heads) == SLICES
    assert (heads[slice_of(append.thread_id)], sum(heads)) == (3, 3)


async def test_a_slices_threads_of_all_tenants_are_listed(event_store: EventStore) -> None:
    slice_ = Slice(7)
    ids = [thread_id for thread_id, _ in zip(threads_of(slice_), range(5), strict=False)]
    for number, thread_id in enumerate(ids):
        await event_store.append(appending(thread_id, EMPTY_HEAD, "{}", tenant=ACME if number % 2 else OTHER))
    await event_store.append(appending(next(threads_of(Slice(8))), EMPTY_HEAD, "{}"))
    pages, after = [], None
    while rows := await event_store.threads_of(slice_, after, 2):
        pages.append([row.thread_id for row in rows])
        after = rows[-1].thread_id

    assert [len(page) for page in pages] == [2, 2, 1]
    assert [thread_id for page in pages for thread_id in page] == sorted(ids)
    assert (await event_store.threads_of(slice_, None, 9))[0] == await event_store.thread(min(ids))
