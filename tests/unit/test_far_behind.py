"""Projections that are far behind make rows of one half of the slices while those of the other half are written."""

import asyncio
from collections.abc import Sequence
from datetime import date
from itertools import islice
from uuid import UUID

import pytest

from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Price, Prices
from domain.ids import SLICES, Slice, ThreadId, Version
from domain.log.hash_chain import Record
from domain.ports.read_models import Batch
from domain.read_models.queries import Select
from domain.thread.codec import Metadata
from domain.thread.events import MessageAppended, ModelCalled, ThreadOpened, TurnCompleted, TurnStarted
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.read_models import MemoryReadModels
from infrastructure.memory.snapshots import MemorySnapshotStore
from projections.engine import runner
from projections.engine.batch import EventBatch
from projections.engine.runner import ProjectionRunner
from projections.registry import PROJECTIONS
from projections.threads import THREADS
from projections.usage import USAGE
from tests.streams import threads_of
from tests.support.runtime import Clock

PRICES = Prices(date(2026, 11, 1), {"m": Price(1.0, 2.0)})
SOME = 60
"""Threads, of five events each."""


class Desk:
    """Projections over a log in memory: what they do is noted in its order, and writing takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        store, clock = MemoryEventStore(), Clock()
        self.repository = ThreadRepository(store, MemorySnapshotStore(), clock, fingerprint="test")
        self.models = MemoryReadModels(store.head_of, clock)
        everything = [Slice(number) for number in range(SLICES)]
        self.runner = ProjectionRunner(self.repository, self.models, PROJECTIONS, PRICES, clock, lambda: everything)
        fold, commit = EventBatch.fold, self.models.commit

        async def making(made: EventBatch, records: Sequence[Record], *, unhandled: Version | None = None) -> None:
            self.did.append("make")
            await asyncio.sleep(0)
            await fold(made, records, unhandled=unhandled)
            self.did.append("made")

        async def writing(batch: Batch) -> bool:
            self.did.append("write")
            await asyncio.sleep(0.005)
            self.did.append("written")
            return await commit(batch)

        monkeypatch.setattr(EventBatch, "fold", making)
        monkeypatch.setattr(self.models, "commit", writing)

    async def filled(self) -> "Desk":
        for number in range(1, SOME + 1):
            thread, turn = await self.repository.load(ThreadId(UUID(int=number))), UUID(int=number)
            said = MessageAppended("user", "hello", 1)
            called = ModelCalled("m", 40, 10, 5, "stop")
            events = (ThreadOpened("assistant"), TurnStarted(turn, "n", "f00"), said, called, TurnCompleted(turn))
            await self.repository.append(self.repository.chain(thread, events, Metadata()))
        await self.models.register([projection.shape for projection in PROJECTIONS])
        return self

    async def calls(self) -> int:
        return sum(dict(zip(USAGE.names, row, strict=True))["calls"] for row in await self.models.select(Select(USAGE)))

    def is_pipelined(self) -> bool:
        """Say whether anything was made while something else was written."""
        writing = 0
        for did in self.did:
            writing += {"write": 1, "written": -1}.get(did, 0)
            if did == "make" and writing:
                return True
        return False


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return await Desk(monkeypatch).filled()


async def test_far_behind_one_batch_is_made_while_another_one_is_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FAR_BEHIND_EVENTS", 50)
    monkeypatch.setattr(runner, "MAX_BATCH_EVENTS", 20)
    desk.runner._batch_events = 20
    while await desk.runner.step():
        pass
    assert desk.is_pipelined()
    assert len(await desk.models.select(Select(THREADS))) == await desk.calls() == SOME


async def test_rows_of_one_batch_at_a_time_are_made(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FAR_BEHIND_EVENTS", 50)
    while await desk.runner.step():
        pass
    making = [did for did in desk.did if did.startswith("ma")]
    assert making == ["make", "made"] * (len(making) // 2)


async def test_a_batch_that_was_full_is_followed_by_two_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_BATCH_EVENTS", 20)
    desk.runner._batch_events = 20
    await desk.runner.step()
    assert not desk.is_pipelined(), "until then, nobody knew"
    await desk.runner.step()
    assert desk.is_pipelined()


def test_a_round_is_followed_by_a_rest_that_is_shorter_the_fuller_it_was() -> None:
    quick, usual = runner.rest_after(0, 2_000, 0.001), runner.rest_after(1_000, 2_000, 0.03)
    assert (quick, usual) == (runner.MIN_REST_S, runner.MAX_REST_S)
    rests = [runner.rest_after(moved, 2_000, 0.03) for moved in range(1_000, 2_000, 100)]
    assert rests == sorted(rests, reverse=True)
    assert rests[-1] == runner.MIN_REST_S


async def test_events_of_a_slice_whose_threads_take_turns_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch)
    one, other = islice(threads_of(Slice(7)), 2)
    called = ModelCalled("m", 40, 10, 5, "stop")
    for thread_id, events in (
        (one, [ThreadOpened("assistant")]),
        (other, [ThreadOpened("assistant")]),
        (one, [TurnStarted(UUID(int=1), "n", "f00"), MessageAppended("user", "hello", 1), called]),
    ):
        await desk.repository.append(desk.repository.chain(await desk.repository.load(thread_id), events, Metadata()))
    await desk.models.register([projection.shape for projection in PROJECTIONS])
    assert [await desk.runner.step(), await desk.runner.step()] == [5, 0]
    assert await desk.calls() == 1


async def test_near_the_end_of_the_log_there_is_one_batch_at_a_time(desk: Desk) -> None:
    desk.runner._batch_events = 10_000
    assert await desk.runner.step() == SOME * 5
    assert desk.did == ["make", "made", "write", "written"]
