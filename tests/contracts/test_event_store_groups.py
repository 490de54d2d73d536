"""What every event store does with many appends at once, with forks, and with leases that are over."""

import asyncio

import pytest
from msgspec.structs import replace

from domain.errors import LeaseLost, VersionConflict
from domain.ids import SLICES, Position, Slice, ThreadId, Version, shard_of, slice_of
from domain.log.hash_chain import EMPTY_HEAD, check_chain
from domain.ports.leases import LeaseStore
from domain.ports.log import Append, EventStore, Fence
from tests.streams import NOON, SECOND, a_command, appending, new_thread
from tests.support.leases import taken


async def outcomes(store: EventStore, *appends: Append) -> list[Position | BaseException]:
    return await asyncio.gather(*[store.append(append) for append in appends], return_exceptions=True)


class TestAtOnce:
    async def test_many_threads_append_and_positions_have_no_gap(self, event_store: EventStore) -> None:
        first = [appending(new_thread(), EMPTY_HEAD, "{}", "{}") for _ in range(300)]
        assert not [e for e in await outcomes(event_store, *first) if isinstance(e, BaseException)]
        more = [appending(append.thread_id, append.head, '"next"') for append in first]
        positions = await outcomes(event_store, *more)

        stored = [r for s in range(SLICES) for r in await event_store.read_slice(Slice(s), Position(0), 1_000)]
        assert len(stored) == 900
        for slice_ in range(SLICES):
            records = await event_store.read_slice(Slice(slice_), Position(0), 1_000)
            assert [record.position for record in records] == list(range(1, len(records) + 1))
            assert await event_store.slice_head(Slice(slice_)) == len(records)
        for append, position in zip(more, positions, strict=True):
            (last,) = await event_store.read(append.thread_id, Version(2))
            assert last.position == position
            check_chain(await event_store.read(append.thread_id, Version(0)), EMPTY_HEAD)

    async def test_a_conflict_fails_alone(self, event_store: EventStore) -> None:
        opened = [appending(new_thread(), EMPTY_HEAD, "{}") for _ in range(20)]
        await outcomes(event_store, *opened)
        good = [appending(append.thread_id, append.head, "{}") for append in opened[:-1]]
        bad = appending(opened[-1].thread_id, EMPTY_HEAD, "{}")
        *stored, refused = await outcomes(event_store, *good, bad)
        assert all(isinstance(position, int) for position in stored)
        assert isinstance(refused, VersionConflict)
        assert len(await event_store.read(bad.thread_id, Version(0))) == 1

    async def test_a_repeated_command_fails_alone(self, event_store: EventStore) -> None:
        opened = [appending(new_thread(), EMPTY_HEAD, "{}", command=a_command()) for _ in range(5)]
        await outcomes(event_store, *opened)
        again = appending(opened[0].thread_id, opened[0].head, command=opened[0].command)
        other = appending(opened[1].thread_id, opened[1].head, command=a_command())
        refused, stored = await outcomes(event_store, again, other)
        assert isinstance(refused, VersionConflict)
        assert stored == 0

    async def test_of_writers_to_the_same_version_one_wins(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)
        results = await outcomes(
            event_store, *[appending(opened.thread_id, opened.head, f'"{number}"') for number in range(10)]
        )
        assert len([r for r in results if isinstance(r, int)]) == 1
        assert len([r for r in results if isinstance(r, VersionConflict)]) == 9
        assert len(await event_store.read(opened.thread_id, Version(0))) == 2

    async def test_of_equal_commands_without_events_one_is_remembered(self, event_store: EventStore) -> None:
        opened = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(opened)
        command = a_command()
        results = await outcomes(
            event_store, *[appending(opened.thread_id, opened.head, command=command) for _ in range(5)]
        )
        assert sorted(isinstance(r, VersionConflict) for r in results) == [False, True, True, True, True]


class TestForks:
    async def parent(self, store: EventStore) -> Append:
        append = appending(new_thread(), EMPTY_HEAD, '"one"', '"two"', '"three"')
        await store.append(append)
        return append

    def fork_of(self, append: Append, *payloads: str, thread_id: ThreadId | None = None) -> Append:
        """Leave where the append ends."""
        forked = appending(thread_id or new_thread(), append.head, *payloads, at=NOON + SECOND)
        return replace(forked, forked=True)

    async def test_versions_and_hashes_go_on_from_the_parents(self, event_store: EventStore) -> None:
        parent = await self.parent(event_store)
        fork = self.fork_of(parent, '"forked"', '"more"')
        await event_store.append(fork)
        own = await event_store.read(fork.thread_id, Version(0))
        assert [record.version for record in own] == [4, 5]
        assert check_chain(own, parent.head) == fork.head
        row = await event_store.thread(fork.thread_id)
        assert row is not None
        assert (row.base, row.head) == (3, fork.head)
        assert [r.version for r in await event_store.read(fork.thread_id, Version(4))] == [5]
        assert await event_store.read(fork.thread_id, Version(0), upto=Version(3)) == []

        further = appending(fork.thread_id, fork.head, "{}", at=NOON + 2 * SECOND)
        await event_store.append(further)
        assert [r.version for r in await event_store.read(fork.thread_id, Version(0))] == [4, 5, 6]

    async def test_an_id_that_is_taken_is_refused(self, event_store: EventStore) -> None:
        parent = await self.parent(event_store)
        with pytest.raises(VersionConflict):
            await event_store.append(self.fork_of(parent, "{}", thread_id=parent.thread_id))
        fork = self.fork_of(parent, "{}")
        await event_store.append(fork)
        with pytest.raises(VersionConflict):
            await event_store.append(fork)

    async def test_without_forking_no_thread_begins_in_the_middle(self, event_store: EventStore) -> None:
        parent = await self.parent(event_store)
        with pytest.raises(VersionConflict):
            await event_store.append(replace(self.fork_of(parent, "{}"), forked=False))

    async def test_instants_before_the_fork_have_no_version_of_its_own(self, event_store: EventStore) -> None:
        fork = self.fork_of(await self.parent(event_store), "{}", "{}")
        await event_store.append(fork)
        await event_store.append(appending(fork.thread_id, fork.head, "{}", at=NOON + 3 * SECOND))
        instants = [NOON, NOON + SECOND, NOON + 2 * SECOND, NOON + 3 * SECOND]
        assert [await event_store.version_at(fork.thread_id, at) for at in instants] == [0, 5, 5, 6]


class TestFences:
    async def test_an_append_under_an_older_lease_is_refused(
        self, event_store: EventStore, lease_store: LeaseStore
    ) -> None:
        thread_id = new_thread()
        shard = shard_of(slice_of(thread_id))
        old = await taken(lease_store, shard)
        opened = replace(appending(thread_id, EMPTY_HEAD, "{}"), fence=Fence(shard, old.epoch))
        await event_store.append(opened)
        new = await taken(lease_store, shard)
        more = appending(thread_id, opened.head, "{}")

        with pytest.raises(LeaseLost):
            await event_store.append(replace(more, fence=Fence(shard, old.epoch)))
        assert len(await event_store.read(thread_id, Version(0))) == 1

        await event_store.append(replace(more, fence=Fence(shard, new.epoch)))
        await event_store.append(appending(thread_id, more.head, "{}"))
        assert len(await event_store.read(thread_id, Version(0))) == 3
