"""Whatever reads the log reads all of it, also where a page ends early because its events are large."""

from uuid import uuid4

import pytest

from domain.application.archive import new_events
from domain.application.audit.verify import verify_slices, verify_thread
from domain.application.queries.transcript import Transcript
from domain.application.thread_reader import PageSize
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.wait import TurnWaiter
from domain.ids import SLICES, START, Position, ThreadId, TurnId, Version, slice_of
from domain.ports.log import PAGE_BYTES
from domain.thread.codec import Metadata
from domain.thread.events import (
    Event,
    MessageAppended,
    ModelCalled,
    StateUpdated,
    ThreadForked,
    ThreadOpened,
    ToolRequested,
    ToolSucceeded,
    TurnCompleted,
    TurnStarted,
)
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.large import a_thread
from tests.support.runtime import Clock

LARGE = 900_000
TEXTS = ["x" * (LARGE if number % 3 else 100) for number in range(18)]
EVENTS = len(TEXTS) + 3


def repository(store: MemoryEventStore) -> ThreadRepository:
    return ThreadRepository(store, MemorySnapshotStore(), Clock(), fingerprint="f")


@pytest.fixture
async def log() -> tuple[MemoryEventStore, ThreadId]:
    store = MemoryEventStore()
    return store, await a_thread(store, TEXTS)


async def test_a_thread_is_folded_whole(log: tuple[MemoryEventStore, ThreadId]) -> None:
    store, thread_id = log
    loaded = await repository(store).load(thread_id)
    assert loaded.head.version == EVENTS
    assert [message.content for message in loaded.state.thread.window] == TEXTS  # type: ignore[union-attr]
    past = await repository(store).load_at(thread_id, Version(EVENTS - 2))
    assert past.head.version == EVENTS - 2


async def test_a_thread_is_followed_to_its_end(log: tuple[MemoryEventStore, ThreadId]) -> None:
    store, thread_id = log
    assert [r.version async for r in repository(store).follow(thread_id)] == [*range(1, EVENTS + 1)]
    assert [r.version async for r in repository(store).follow(thread_id, first=1)] == [*range(1, EVENTS + 1)]
    assert [r.version async for r in repository(store).records(thread_id, Version(2))] == [*range(3, EVENTS + 1)]


@pytest.mark.parametrize("first", [1, 3, 50])
async def test_a_thread_is_read_backwards_in_pages_that_fit(log: tuple[MemoryEventStore, ThreadId], first: int) -> None:
    store, thread_id = log
    pages = [page async for page in repository(store).pages_back(thread_id, START, Version(EVENTS), first)]
    assert [r.version for page in pages for r in reversed(page)] == [*range(EVENTS, 0, -1)]
    assert max(sum(r.size for r in page[:-1]) for page in pages) <= PAGE_BYTES


async def test_a_fork_of_large_events_has_them_in_order(log: tuple[MemoryEventStore, ThreadId]) -> None:
    store, parent = log
    fork_id, its = ThreadId(uuid4()), repository(store)
    before = await its.load_at(parent, Version(EVENTS))
    left = LoadedThread(fork_id, before.tenant, before.head, before.state)
    forked, _ = await its.append(its.chain(left, [ThreadForked(parent, EVENTS)], Metadata(), forked=True))
    await its.append(its.chain(forked, [StateUpdated({"a": "x" * 100_000})] * 50, Metadata()))

    found = [recorded.version async for recorded in repository(store).follow(fork_id, Version(7))]

    assert found == [*range(8, EVENTS + 52)]
    assert (await repository(store).load(fork_id)).head.version == EVENTS + 51


async def test_what_is_checked_and_exported_is_everything() -> None:
    store = MemoryEventStore()
    thread_id = await a_thread(store, TEXTS)
    assert (await verify_thread(store, thread_id)).events == EVENTS
    checked = await verify_slices(store, [slice_of(thread_id)])
    assert (checked.events, checked.problems) == (EVENTS, ())
    pages = [page async for page in new_events(store, [Position(0)] * SLICES, await store.slice_heads())]
    assert sum(len(records) for _, records in pages) == EVENTS
    assert max(len(records) for _, records in pages) < EVENTS


def test_of_large_events_no_more_are_asked_for_than_about_fit() -> None:
    size = PageSize()
    assert size.limit == 128
    assert not size.is_last([1_000_000] * 4)
    assert size.limit == 8
    assert not size.is_last([100] * 8)
    assert size.limit == 128
    assert not size.is_last([100] * 128)
    assert size.limit == 256
    assert size.is_last([100] * 255)


async def test_whoever_waits_for_a_turn_keeps_its_beginning_and_what_was_said_last() -> None:
    store, turn_id = MemoryEventStore(), TurnId(uuid4())
    its = repository(store)
    called = ModelCalled("m", 1, 1, 1, "stop")
    events: list[Event] = [ThreadOpened("assistant"), TurnStarted(turn_id, "n", "f"), MessageAppended("user", "hi", 1)]
    for number in range(12):
        call = 3 + 4 * number + 3
        asking = (MessageAppended("assistant", None, 1), ToolRequested(f"c{number}", "clock", {}))
        events += [called, *asking, ToolSucceeded(call, f"{number:02}" + "x" * LARGE, 1, 1)]
    loaded, _ = await its.append(
        its.chain(LoadedThread(ThreadId(uuid4())), [*events, TurnCompleted(turn_id)], Metadata())
    )

    ending = TurnWaiter(its, loaded.thread_id, turn_id, Version(1))
    ending.miss()
    await ending.end()
    turn = await Transcript(its, loaded.thread_id).finished(ending.events)

    assert ending.cut
    assert sum(recorded.size for recorded in ending.events) < PAGE_BYTES + LARGE
    assert len(turn.calls) == 12, "what it has used is all there"
    said = [(message.role, (message.content or "")[:2]) for message in turn.messages if message.content]
    assert said == [("user", "hi"), ("tool", "08"), ("tool", "09"), ("tool", "10"), ("tool", "11")]
    assert all(message.name == "clock" for message in turn.messages if message.role == "tool")
    assert not turn.messages[0].tool_calls
