"""Threads are folded from the nearest snapshot of this fold and the events after it, and kept hot safely."""

from collections.abc import Sequence
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.application.command_handler import CommandRequest, ExpectedVersion, execute, idempotency_key
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import CommandReused, InvalidInput, UnknownThread, VersionConflict
from domain.ids import Tenant, ThreadId, Version
from domain.log.hash_chain import Record
from domain.ports.log import PAGE_BYTES
from domain.ports.snapshots import Snapshot
from domain.thread.commands import OpenThread, UpdateValues
from domain.thread.state import Idle
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock


class CountingStore(MemoryEventStore):
    """Keeps how many events were read."""

    def __init__(self) -> None:
        super().__init__()
        self.events_read = 0

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = PAGE_BYTES,
    ) -> Sequence[Record]:
        found = await super().read(thread_id, after, upto, limit, room)
        self.events_read += len(found)
        return found


class NotingSnapshots(MemorySnapshotStore):
    """Keeps the versions that snapshots were saved of."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[Version] = []

    async def save(self, snapshot: Snapshot) -> None:
        self.saved.append(snapshot.head.version)
        await super().save(snapshot)


class Bench:
    """A store, and repositories over it as several processes would have them."""

    def __init__(self) -> None:
        self.store, self.snapshots, self.clock = CountingStore(), NotingSnapshots(), Clock()
        self.thread_id = ThreadId(uuid4())

    def repository(self, fingerprint: str = "this fold", keep: int = 10) -> ThreadRepository:
        return ThreadRepository(
            self.store, self.snapshots, self.clock, fingerprint=fingerprint, snapshot_every=10, keep=keep
        )

    async def grown(self, repository: ThreadRepository, size: int) -> LoadedThread:
        """A thread of `size` events, with a snapshot wherever one is due."""
        await execute(repository, CommandRequest(self.thread_id, lambda _: (OpenThread("assistant"),)))
        for number in range(2, size + 1):
            change = UpdateValues({"n": number})
            done = await execute(repository, CommandRequest(self.thread_id, lambda _, change=change: (change,)))  # type: ignore[misc]
            await repository.save_snapshot(done.loaded)
        self.store.events_read = 0
        return done.loaded


async def test_a_cold_thread_is_folded_from_its_last_snapshot() -> None:
    bench = Bench()
    hot = await bench.grown(bench.repository(), 25)
    cold = await bench.repository().load(bench.thread_id)
    assert (cold.state, cold.head) == (hot.state, hot.head)
    assert bench.store.events_read == 5


async def test_a_snapshot_of_another_fold_is_ignored() -> None:
    bench = Bench()
    hot = await bench.grown(bench.repository(), 25)
    cold = await bench.repository("another fold").load(bench.thread_id)
    assert cold.state == hot.state
    assert bench.store.events_read == 25


async def test_a_snapshot_is_written_once_in_so_many_events_even_behind_the_next_turn() -> None:
    bench = Bench()
    repository = bench.repository()
    early = await bench.grown(repository, 9)
    for number in range(9, 40):
        done = await execute(repository, CommandRequest(bench.thread_id, lambda _, n=number: (UpdateValues({"m": n}),)))  # type: ignore[misc]
        await repository.save_snapshot(early)
        early = done.loaded
    assert bench.snapshots.saved == [10, 20, 30]


async def test_every_past_version_is_the_same_from_a_snapshot_and_from_the_beginning() -> None:
    bench = Bench()
    await bench.grown(bench.repository(), 35)
    for version in map(Version, range(1, 36)):
        from_snapshot = await bench.repository().load_at(bench.thread_id, version)
        from_beginning = await bench.repository("none").load_at(bench.thread_id, version)
        assert (from_snapshot.state, from_snapshot.head) == (from_beginning.state, from_beginning.head)
        assert from_snapshot.state.version == version
    with pytest.raises(InvalidInput, match="versions 1 to 35"):
        await bench.repository().load_at(bench.thread_id, Version(36))


async def test_a_hot_thread_sees_what_another_process_appended() -> None:
    bench = Bench()
    one, other = bench.repository(), bench.repository()
    await bench.grown(one, 5)
    await execute(other, CommandRequest(bench.thread_id, lambda _: (UpdateValues({"from": "other"}),)))
    loaded = await one.load(bench.thread_id)
    assert isinstance(loaded.state, Idle)
    assert loaded.state.thread.values == {"n": 5, "from": "other"}


async def test_a_decision_on_stale_knowledge_is_made_again() -> None:
    bench = Bench()
    one, other = bench.repository(), bench.repository()
    known = await bench.grown(one, 5)
    await execute(other, CommandRequest(bench.thread_id, lambda _: (UpdateValues({"a": 1}),)))
    change = CommandRequest(bench.thread_id, lambda _: (UpdateValues({"b": 2}),), known=known)
    done = await execute(one, change)
    assert isinstance(done.loaded.state, Idle)
    assert done.loaded.state.thread.values == {"n": 5, "a": 1, "b": 2}
    again = await execute(one, replace(change, plan=lambda _: (UpdateValues({"b": 2}),)))
    assert (again.events, again.loaded.head.version) == ((), 7)


async def test_who_expects_a_checkpoint_is_not_served_on_another() -> None:
    bench = Bench()
    known = await bench.grown(bench.repository(), 5)
    head = known.head
    for seen in (ExpectedVersion(Version(4), head.hash.hex()[:8]), ExpectedVersion(head.version, "00000000")):
        stale = CommandRequest(bench.thread_id, lambda _: (UpdateValues({"a": 1}),), expected=seen)
        with pytest.raises(VersionConflict):
            await execute(bench.repository(), stale)
    fresh = CommandRequest(
        bench.thread_id,
        lambda _: (UpdateValues({"a": 1}),),
        expected=ExpectedVersion(head.version, head.hash.hex()[:8]),
    )
    assert (await execute(bench.repository(), fresh)).events


async def test_a_repeated_command_does_nothing_even_if_it_would_by_now() -> None:
    bench = Bench()
    repository = bench.repository()
    await bench.grown(repository, 3)

    def asked(value: int, body: str = "same") -> CommandRequest:
        bound = idempotency_key(bench.thread_id, "key", body)
        return CommandRequest(bench.thread_id, lambda _: (UpdateValues({"n": value}),), idempotency_key=bound)

    first = await execute(repository, asked(3))
    assert not first.events, "nothing changes, and the command is remembered all the same"
    await execute(repository, CommandRequest(bench.thread_id, lambda _: (UpdateValues({"n": 4}),)))
    again = await execute(repository, asked(3))
    assert (again.events, again.repeated, again.loaded.head) == ((), True, first.loaded.head)
    with pytest.raises(CommandReused):
        await execute(repository, asked(5, "other"))


async def test_another_tenant_does_not_see_the_thread() -> None:
    bench = Bench()
    repository = bench.repository()
    await bench.grown(repository, 3)
    for read in (repository.load, repository.existing):
        with pytest.raises(UnknownThread):
            await read(bench.thread_id, Tenant("other"))
    with pytest.raises(UnknownThread):
        await repository.load_at(bench.thread_id, Version(2), Tenant("other"))


async def test_only_the_last_used_threads_are_kept() -> None:
    bench = Bench()
    repository = bench.repository(keep=2)
    for _ in range(5):
        bench.thread_id = ThreadId(uuid4())
        await bench.grown(repository, 2)
    assert len(repository._hot) == 2


async def test_a_command_is_decided_by_what_was_last_seen_and_again_if_that_has_moved_on() -> None:
    bench = Bench()
    here, there = bench.repository(), bench.repository()
    await bench.grown(here, 3)
    change = UpdateValues({"n": 4})
    await execute(here, CommandRequest(bench.thread_id, lambda _: (change,)))
    assert bench.store.events_read == 0, "nobody else has written: nothing needs to be read"
    await execute(there, CommandRequest(bench.thread_id, lambda _: (UpdateValues({"n": 5}),)))
    again = await execute(here, CommandRequest(bench.thread_id, lambda _: (change,)))
    assert again.loaded.head.version == 6, "it would change nothing in the thread that was last seen here"


async def test_what_was_last_seen_is_shown_to_its_own_tenant_only() -> None:
    bench = Bench()
    repository = bench.repository()
    done = await bench.grown(repository, 3)
    assert repository.cached_idle(bench.thread_id, done.tenant) is not None
    assert repository.cached_idle(bench.thread_id, Tenant("another")) is None
    with pytest.raises(UnknownThread):
        await execute(
            repository, CommandRequest(bench.thread_id, lambda _: (UpdateValues({"n": 9}),), tenant=Tenant("another"))
        )
