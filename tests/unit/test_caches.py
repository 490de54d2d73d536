"""Caches of folded threads are bounded in bytes, not only in entries."""

from uuid import UUID, uuid4

import pytest

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.ids import ThreadId
from domain.thread.codec import Metadata
from domain.thread.events import Event, MessageAppended, StateUpdated, ThreadOpened, TurnEnqueued, TurnStarted
from domain.thread.evolve import fold
from domain.thread.memory_size import size_of
from domain.thread.state import INITIAL
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Clock

KB = 1_000


def repository(keep_bytes: int) -> ThreadRepository:
    store, snapshots = MemoryEventStore(), MemorySnapshotStore()
    return ThreadRepository(store, snapshots, Clock(), fingerprint="f", keep=1_000, keep_bytes=keep_bytes)


async def opened(into: ThreadRepository, size: int) -> LoadedThread:
    loaded, _ = await into.append(
        into.chain(
            LoadedThread(ThreadId(uuid4())), [ThreadOpened("assistant"), StateUpdated({"a": "x" * size})], Metadata()
        )
    )
    return loaded


async def test_large_threads_are_let_go_before_there_are_many() -> None:
    kept = repository(keep_bytes=1_000 * KB)
    threads = [await opened(kept, 100 * KB) for _ in range(20)]

    assert 1 <= len(kept._hot) <= 10
    assert kept._hot.size <= 1_000 * KB
    assert threads[-1].thread_id in kept._hot
    for loaded in threads:
        assert (await kept.load(loaded.thread_id)).state == loaded.state


async def test_small_threads_are_all_kept() -> None:
    kept = repository(keep_bytes=1_000 * KB)
    for _ in range(100):
        await opened(kept, 10)

    assert len(kept._hot) == 100


async def test_what_a_thread_takes_is_known_however_it_grows_and_shrinks() -> None:
    kept = repository(keep_bytes=10_000 * KB)
    loaded = await opened(kept, 10)
    for number in range(200):
        loaded, _ = await kept.append(kept.chain(loaded, [StateUpdated({"a": f"{number}" * 5 * KB})], Metadata()))

    weight = size_of(loaded.state)
    assert weight / 2 < kept._hot.size < 3 * weight, "not what all its events took"


@pytest.mark.parametrize(
    "events",
    [
        [StateUpdated({"a": "x" * 100 * KB})],
        [TurnStarted(UUID(int=1), "n", "f"), MessageAppended("user", "x" * 100 * KB, 1)],
        [
            TurnStarted(UUID(int=1), "n", "f"),
            MessageAppended("user", "hi", 1),
            TurnEnqueued(UUID(int=2), "x" * 100 * KB, 1, "n", "f"),
        ],
    ],
)
def test_everything_long_is_weighed(events: list[Event]) -> None:
    state = fold(INITIAL, [ThreadOpened("assistant"), *events])
    assert 100 * KB < size_of(state) < 700 * KB
