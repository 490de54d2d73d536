"""Crashes, hand-overs and suspects: which turn is blamed for the end of a process, and which is not."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

import pytest

from domain.agents.agent import TurnContext
from domain.application.turns import lone_turns, take_up
from domain.application.turns.runner import TurnRunner
from domain.application.turns.turn_loop import TurnLoop
from domain.application.turns.worker import Worker
from domain.errors import CorruptLog, StoreUnavailable
from domain.ids import ThreadId, Version, WorkerId
from domain.ports.log import Fence
from domain.ports.suspects import MAX_LONE_CRASHES, MAX_SHARED_CRASHES
from domain.thread.codec import Metadata
from domain.thread.events import NodeEvent, TurnCompleted, TurnFailed, TurnResumed
from infrastructure.memory.borrowed_lease import BorrowedLease
from infrastructure.memory.wakeups import MemoryWakeups
from tests.support.runtime import Clock, Stage, one_node, stage


@dataclass
class Cells:
    """Isolation in this process. `crashes`: how many of the next runs end with a crash."""

    crashes: int = 0
    runs: list[tuple[ThreadId, bool]] = field(default_factory=list)
    played: Stage | None = None

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        self.runs.append((thread_id, convicted is not None))
        if self.crashes:
            self.crashes -= 1
            return False
        assert self.played
        lease = BorrowedLease(fence)
        turns = TurnRunner(self.played.turns.services, self.played.turns.agents)
        worker = Worker(turns, lease, MemoryWakeups(), lease, lease, WorkerId(uuid4()), "cell", lease=0.1)
        await worker.run_alone(thread_id, asyncio.Event(), convicted=convicted)
        return True


async def never(_: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(600)
    return ()


async def quick(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("done")]


def a_worker(played: Stage, isolation: Cells | None = None, turns: TurnRunner | None = None) -> Worker:
    """A worker that comes when the lease of the one before has run out."""
    played.leases._clock.pass_(1_000)  # type: ignore[attr-defined]
    if isolation:
        isolation.played = played
    return Worker(
        turns or TurnRunner(played.turns.services, played.turns.agents),
        played.leases,
        MemoryWakeups(),
        played.leases.suspects,
        played.leases.loans,
        WorkerId(uuid4()),
        "test",
        isolation=isolation,
    )


async def crashed(worker: Worker, played: Stage) -> None:
    """Begin to run what there is, and then end like a process that is killed: nothing is given back."""
    if not worker._ticking:
        await worker.begin()
    async with asyncio.timeout(10):
        while not worker.turns.running():
            await asyncio.sleep(0)
    await worker.background.stop(*worker._ticking)
    for task in (*worker._tasks, *(task for _, task in worker.turns._runs.values())):
        task.cancel()
    worker.turns._runs.clear()
    played.repository._hot.clear()


async def until_over(played: Stage, worker: Worker) -> None:
    async with asyncio.timeout(10), worker.working(grace=0):
        while not await played.happened(TurnCompleted, TurnFailed):
            await asyncio.sleep(0.001)


async def test_a_turn_that_is_handed_over_again_and_again_is_never_blamed() -> None:
    played = stage(one_node(never, timeout=700))
    await played.begin("hello")
    for times in range(20):
        async with asyncio.timeout(10), a_worker(played, Cells()).working(grace=0):
            while len(await played.happened(TurnResumed)) < times:
                await asyncio.sleep(0)
    assert not await played.happened(TurnFailed)
    assert await played.leases.suspects.of(range(64)) == {}  # type: ignore[arg-type]


async def test_after_two_crashes_a_turn_runs_alone_and_if_that_goes_well_it_completes() -> None:
    played, cells = stage(one_node(quick)), Cells()
    await played.begin("hello")
    for _ in range(MAX_SHARED_CRASHES):
        played.turns.agents = {"solo": one_node(never, timeout=700)}
        await crashed(a_worker(played, cells), played)
        assert not cells.runs
    played.turns.agents = {"solo": one_node(quick)}
    await until_over(played, a_worker(played, cells))
    assert cells.runs == [(played.thread_id, False)]
    assert await played.happened(TurnCompleted)


async def test_only_a_turn_that_crashed_alone_twice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_turns, "LONE_RETRY_S", 0.001)
    played, cells = stage(one_node(never, timeout=700)), Cells(crashes=MAX_LONE_CRASHES)
    await played.begin("hello")
    for _ in range(MAX_SHARED_CRASHES):
        await crashed(a_worker(played, cells), played)
    await until_over(played, a_worker(played, cells))
    assert [convicted for _, convicted in cells.runs] == [False, False, True]
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.reason == "resumed_too_often"
    assert "only: Each process" in failed.detail


async def test_a_thread_that_even_crashes_whoever_is_to_fail_it_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lone_turns, "LONE_RETRY_S", 0.001)
    played, cells = stage(one_node(never, timeout=700)), Cells(crashes=100)
    await played.begin("hello")
    for _ in range(MAX_SHARED_CRASHES):
        await crashed(a_worker(played, cells), played)
    worker = a_worker(played, cells)
    async with asyncio.timeout(10), worker.working(grace=0):
        while "crashes every process" not in caplog.text:
            await asyncio.sleep(0.001)
        for _ in range(5):
            await worker._find_work()
            await asyncio.sleep(0)
    assert len(cells.runs) == MAX_LONE_CRASHES + 1


async def test_a_clock_that_is_ahead_does_not_hide_that_a_turn_ran_before() -> None:
    played = stage(one_node(never, timeout=700))
    played.leases._clock = Clock()
    played.clock.pass_(100_000)
    worker = a_worker(played)
    await worker.begin()
    begun = await played.begin("hello")
    worker.ready(begun.loaded, Metadata(), begun.events[1])
    assert worker.turns.running(), "it began under this worker's lease"
    await crashed(worker, played)
    await crashed(a_worker(played), played)
    assert len(await played.happened(TurnResumed)) == 1


async def test_a_turn_that_begins_under_the_workers_own_lease_is_not_resumed() -> None:
    played = stage(one_node(quick))
    played.leases._clock = Clock()
    played.clock.time -= timedelta(days=1)
    worker = a_worker(played)
    async with asyncio.timeout(10), worker.working():
        await played.begin("hello")
        while not await played.happened(TurnCompleted):
            await worker._find_work()
            await asyncio.sleep(0)
    assert not await played.happened(TurnResumed)


async def test_a_turn_whose_own_run_ends_with_an_error_fails_after_some_attempts_and_no_other_one_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise CorruptLog("a bug")

    monkeypatch.setattr(TurnLoop, "_compact_window", broken)
    monkeypatch.setattr("domain.application.turns.runner.CRASH_PAUSE_S", 0.0001)
    caplog.set_level(logging.CRITICAL)
    played = stage(one_node(quick))
    await played.begin("hello")
    worker = a_worker(played)
    async with asyncio.timeout(20), worker.working(grace=0):
        while not await played.happened(TurnFailed):
            await worker._find_work()
            await asyncio.sleep(0.002)
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "CorruptLog: a bug" in failed.detail
    assert len(await played.happened(TurnResumed)) == 1 + take_up.MAX_CRASHES_HERE


async def test_a_lone_crash_is_counted_however_long_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lone_turns, "LONE_RETRY_S", 0.001)
    played, cells = stage(one_node(quick)), Cells(crashes=1)
    await played.begin("hello")
    await played.leases.suspects.crashed_alone(played.thread_id)
    counting, away = played.leases.suspects.crashed_alone, [1, 2, 3]

    async def flaky(thread_id: ThreadId) -> object:
        if away:
            away.pop()
            raise StoreUnavailable
        return await counting(thread_id)

    monkeypatch.setattr(played.leases.suspects, "crashed_alone", flaky)
    await until_over(played, a_worker(played, cells))
    assert [convicted for _, convicted in cells.runs] == [False, True]
