"""Background tasks: they run again when they end, and it is known which one does not run."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest

from api.runtime.projector import Held
from api.runtime.stores import SystemClock
from domain.application import background_tasks as module
from domain.application.background_tasks import BackgroundTasks, TaskStatus
from domain.application.streaming.broadcast import Broadcast
from domain.errors import StoreUnavailable
from domain.ids import ThreadId, Version, WorkerId
from domain.ports.leases import WorkerRow
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.leases import MemoryLeaseStore


class Failing:
    """A task that fails as often as it is told, and then runs."""

    def __init__(self, times: int, error: BaseException | None) -> None:
        self.left = times
        self.error = error
        self.runs = asyncio.Event()

    async def run(self) -> None:
        if self.left:
            self.left -= 1
            if self.error is None:
                return
            raise self.error
        self.runs.set()
        await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def status(tasks: BackgroundTasks) -> TaskStatus:
    (found,) = tasks.statuses()
    return found


@pytest.mark.parametrize(
    "error",
    [ValueError("broken"), StoreUnavailable(), asyncio.CancelledError("by something it awaited"), None],
    ids=repr,
)
async def test_a_task_that_ends_runs_again_whatever_it_ended_with(
    error: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, failing = BackgroundTasks(), Failing(2, error)
    task = tasks.start("one", failing.run, first_pause=0.01, longest_pause=0.01)

    await asyncio.wait_for(failing.runs.wait(), 30)

    assert status(tasks).restarts == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "The background task one failed" in caplog.text
    assert ".." not in caplog.text
    assert ("Traceback" in caplog.text) == (error is not None and not isinstance(error, StoreUnavailable))
    await until(lambda: status(tasks).up)
    await tasks.stop(task)
    assert tasks.statuses() == []


async def test_a_task_that_waits_for_its_next_attempt_is_not_running() -> None:
    tasks, failing = BackgroundTasks(), Failing(1, ValueError("broken"))
    assert tasks.not_running() == []
    task = tasks.start("one", failing.run, first_pause=60)
    await until(lambda: not status(tasks).up)

    assert tasks.not_running() == ["one"]
    assert status(tasks).last_error == "ValueError: broken"
    await tasks.stop(task)


async def test_a_task_that_fails_again_and_again_is_up_only_once_it_has_run_for_a_while() -> None:
    tasks, failing = BackgroundTasks(), Failing(3, ValueError("broken"))
    task = tasks.start("one", failing.run, first_pause=0.1, longest_pause=0.4)
    await asyncio.wait_for(failing.runs.wait(), 30)

    assert not status(tasks).up
    await until(lambda: status(tasks).up)
    await tasks.stop(task)


async def test_pauses_grow_and_begin_again_after_a_healthy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("domain.application.background_tasks.asyncio.sleep", noted)
    failing = Failing(8, ValueError("broken"))
    tasks = BackgroundTasks()
    task = tasks.start("one", failing.run)
    await asyncio.wait_for(failing.runs.wait(), 30)
    assert slept == [1, 2, 4, 8, 16, 30, 30, 30]
    await tasks.stop(task)

    slept.clear()
    monkeypatch.setattr(module, "HEALTHY_S", 0.0)
    again = Failing(3, ValueError("broken"))
    task = tasks.start("one", again.run)
    await asyncio.wait_for(again.runs.wait(), 30)
    assert slept == [1, 1, 1]
    await tasks.stop(task)


async def test_a_task_that_is_asked_to_end_is_not_started_again() -> None:
    asked = asyncio.Event()
    runs: list[None] = []

    async def run() -> None:
        runs.append(None)
        await asked.wait()

    tasks = BackgroundTasks()
    task = tasks.start("one", run, first_pause=0)
    await until(lambda: runs)
    asked.set()
    await tasks.stop(task, grace=10)

    assert len(runs) == 1


async def test_a_projector_asks_for_its_shards_again_after_an_unforeseen_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.runtime.projector.SHARDS_POLL_S", 0.01)
    leases, worker, tasks = MemoryLeaseStore(SystemClock()), WorkerId(uuid4()), BackgroundTasks()
    ask = leases.workers
    asked: list[None] = []

    async def broken_once() -> Sequence[WorkerRow]:
        asked.append(None)
        if len(asked) == 2:
            raise RuntimeError("unforeseen")
        return await ask()

    monkeypatch.setattr(leases, "workers", broken_once)
    held = Held(leases, worker, tasks)
    async with held.watched():
        await until(lambda: not status(tasks).up)
        await leases.renew(worker, "test", 60)
        await leases.claim(worker, 60, 1)
        await until(lambda: held.slices)


class Broken(MemoryEventStore):
    """A store that fails once, in a way that no one has foreseen."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def versions(self, threads: object) -> dict[ThreadId, Version]:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("unforeseen")
        return {}


async def test_the_log_is_asked_for_watched_threads_again_after_an_unforeseen_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("domain.application.streaming.broadcast.POLL_INTERVAL_S", 0.01)
    store, broadcast, tasks = Broken(), Broadcast(), BackgroundTasks()
    thread = ThreadId(uuid4())
    task = tasks.start("signals", lambda: broadcast.keep_up(store), first_pause=0.01)
    with broadcast.watch(thread):
        await until(lambda: store.asked > 2)

    assert status(tasks).restarts == 1
    await tasks.stop(task)


@pytest.mark.parametrize("well", [True, False])
async def test_a_run_that_was_well_before_it_failed_does_not_lengthen_the_pause(
    caplog: pytest.LogCaptureFixture,
    well: bool,  # noqa: FBT001
) -> None:
    tasks, failing = BackgroundTasks(), Failing(4, ValueError("broken"))
    task = tasks.start("one", failing.run, first_pause=0.01, longest_pause=1.0, was_well=lambda: well)
    async with asyncio.timeout(30):
        await failing.runs.wait()
    await tasks.stop(task)
    pauses = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert pauses == (["0.01 s"] * 4 if well else ["0.01 s", "0.02 s", "0.04 s", "0.08 s"])
