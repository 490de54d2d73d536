"""Turns that run alone, beside the worker that has them run so: whose turn is meant, and who runs it."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.agents.agent import TurnContext
from domain.application.turns.runner import TurnRunner
from domain.application.turns.worker import Worker
from domain.errors import StoreUnavailable
from domain.ids import SHARDS, ThreadId, Version, WorkerId, shard_of, slice_of
from domain.ports.log import Fence
from domain.ports.suspects import Suspect
from domain.thread.codec import Metadata
from domain.thread.events import NodeEvent, TurnCompleted, TurnFailed, TurnResumed, TurnStarted
from infrastructure.memory.borrowed_lease import BorrowedLease
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.leases import MemoryLeaseStore
from infrastructure.memory.wakeups import MemoryWakeups
from tests.support.runtime import Stage, one_node, stage


class Now:
    """The machine's clock: leases run out by themselves."""

    def now(self) -> datetime:
        return datetime.now(UTC)


async def quick(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("fine")]


def playing(run: object = quick, store: MemoryEventStore | None = None) -> Stage:
    played = stage(one_node(run, timeout=60), **({"store": store} if store else {}))
    played.leases = MemoryLeaseStore(Now(), played.store)  # type: ignore[arg-type]
    return played


def a_worker(played: Stage, isolation: Any = None, lease: float = 10.0) -> Worker:
    leases, turns = played.leases, TurnRunner(played.turns.services, played.turns.agents)
    parts = (turns, leases, MemoryWakeups(), leases.suspects, leases.loans, WorkerId(uuid4()), "w", lease)
    return Worker(*parts, isolation=isolation)


@dataclass
class Cells:
    """Isolation in this process."""

    played: Stage
    lease: float = 0.1
    runs: list[Version | None] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, thread_id: ThreadId, fence: Fence, *, convicted: Version | None = None) -> bool:
        self.runs.append(convicted)
        lease = BorrowedLease(fence)
        turns = TurnRunner(self.played.turns.services, self.played.turns.agents)
        cell = Worker(turns, lease, MemoryWakeups(), lease, lease, WorkerId(uuid4()), "cell", self.lease)
        await cell.run_alone(thread_id, asyncio.Event(), convicted=convicted)
        self.ended.set()
        return True


def suspect(played: Stage, found: Suspect) -> None:
    version = played.leases.log.version_of(played.thread_id)
    played.leases.suspects._suspects[played.thread_id] = replace(found, version=version)


async def until(played: Stage, *kinds: type, count: int = 1) -> None:
    async with asyncio.timeout(60):
        while len(await played.happened(*kinds)) < count:
            await asyncio.sleep(0.005)


async def test_the_turn_after_one_that_is_convicted_has_done_nothing() -> None:
    played = playing()
    cells = Cells(played)
    await played.begin("poison")
    suspect(played, Suspect(2, 2))
    worker = a_worker(played, cells)
    await worker.begin()
    await cells.ended.wait()
    suspect(played, Suspect(2, 2, Version(1)))  # the next turn begins before the suspicion is forgotten
    suspects = played.leases.suspects._suspects
    suspects[played.thread_id] = replace(suspects[played.thread_id], version=Version(3))
    await played.begin("innocent")
    await until(played, TurnCompleted)
    await worker.end(0)
    assert len(await played.happened(TurnFailed)) == 1
    assert len(await played.happened(TurnStarted)) == 2


async def test_a_convicted_turn_is_failed_and_never_run() -> None:
    class Slow(MemoryEventStore):
        """Each call takes as long as it likes."""

    def slow(name: str) -> None:
        method = getattr(MemoryEventStore, name)

        async def late(self: Slow, *given: Any, **more: Any) -> Any:
            await asyncio.sleep(random.uniform(0.0005, 0.002))
            return await method(self, *given, **more)

        setattr(Slow, name, late)

    for name in ("append", "read", "thread", "runnable", "versions", "command", "read_at"):
        slow(name)
    ran: list[str] = []

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        ran.append(turn.user_input)
        return []

    for _ in range(20):
        played = playing(run, Slow())
        head = (await played.begin("poison")).loaded.head.version
        cell = Cells(played)
        await cell.run(played.thread_id, Fence(shard_of(slice_of(played.thread_id)), 1), convicted=head)
        assert len(await played.happened(TurnFailed)) == 1
    assert ran == []


async def test_the_next_turn_begins_once_while_the_isolated_process_of_the_one_before_ends() -> None:
    starts: list[str] = []

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        starts.append(turn.user_input)
        if turn.user_input == "second":
            await asyncio.sleep(1.5)
        return [turn.say("fine")]

    played = playing(run)
    await played.begin("first")
    suspect(played, Suspect(2))
    worker = a_worker(played, Cells(played, lease=2.0), lease=0.8)
    await worker.begin()
    await until(played, TurnCompleted)
    while worker._take_up.lone.suspected and worker._take_up.lone.running:
        await asyncio.sleep(0.005)
    outcome = await played.begin("second")
    begun = next(recorded for recorded in outcome.events if isinstance(recorded.event, TurnStarted))
    worker.ready(outcome.loaded, Metadata(), begun)
    await until(played, TurnCompleted, count=2)
    await worker.end(0)
    assert starts == ["first", "second"]


async def test_a_graceful_stop_keeps_its_leases_until_its_turns_are_handed_over() -> None:
    starts: list[float] = []

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(2.5)
        return [turn.say("ran")]

    played = playing(run)
    leaving, other = a_worker(played, lease=1.0), a_worker(played, lease=1.0)
    await leaving.begin()
    await played.begin("hello")
    await leaving._find_work()
    async with asyncio.timeout(20):
        while not starts:
            await asyncio.sleep(0.005)
    await other.begin()
    await leaving.end(grace=5.0)
    assert played.leases.suspects._suspects == {}
    await until(played, TurnCompleted)
    await other.end(0)
    assert len(starts) == 1, "it ended where it ran"


async def test_a_store_that_is_away_is_no_crash_of_a_turn_that_runs_alone() -> None:
    class Away(MemoryEventStore):
        away = 0

        async def thread(self, thread_id: ThreadId) -> Any:
            if self.away:
                self.away -= 1
                raise StoreUnavailable
            return await super().thread(thread_id)

    store = Away()
    played = playing(store=store)
    await played.begin("hello")
    store.away = 3
    assert await Cells(played).run(played.thread_id, Fence(shard_of(slice_of(played.thread_id)), 1))
    assert await played.happened(TurnCompleted)


async def test_a_loan_stays_with_a_borrower_that_is_well() -> None:
    starts: list[str] = []

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        starts.append(turn.user_input)
        await asyncio.sleep(2.0)
        return [turn.say("ran")]

    played = playing(run)
    leases = played.leases
    owner = Worker(
        *(TurnRunner(played.turns.services, {}), leases, MemoryWakeups(), leases.suspects, leases.loans),
        *(WorkerId(uuid4()), "owner", 0.4),
    )
    await owner.begin()
    borrowers = [a_worker(played, lease=0.4) for _ in range(5)]
    for borrower in borrowers:
        borrower.shards.standby = True
    await borrowers[0].begin()
    await played.begin("hello")
    async with asyncio.timeout(60):
        while not starts:
            await asyncio.sleep(0.01)
    for borrower in borrowers[1:]:
        await borrower.begin()
    await until(played, TurnCompleted)
    for worker in (*borrowers, owner):
        await worker.end(0)
    assert len(starts) == len(await played.happened(TurnResumed)) == 1


async def test_a_worker_runs_turns_after_it_has_ended_and_begun_again() -> None:
    played = playing()
    worker, other = a_worker(played), WorkerId(uuid4())
    await played.leases.renew(other, "other", 60)
    await worker.begin()
    await worker.end()
    await played.leases.leave(other)
    await worker.begin()
    await played.begin("hello")
    await worker._find_work()
    await until(played, TurnCompleted)
    await worker.end()
    assert len(await played.happened(TurnResumed)) <= 1


async def test_a_start_that_is_cancelled_gives_its_leases_back(monkeypatch: pytest.MonkeyPatch) -> None:
    played = playing()
    worker = a_worker(played)

    async def stuck() -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(worker, "_find_work", stuck)

    async def work() -> None:
        async with worker.working(grace=0):
            pass

    working = asyncio.create_task(work())
    async with asyncio.timeout(20):
        while not worker.shards.held():
            await asyncio.sleep(0.001)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert len(await played.leases.claim(WorkerId(uuid4()), 10, SHARDS)) == SHARDS
