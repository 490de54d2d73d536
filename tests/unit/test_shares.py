"""Workers that know different agents, and leases that nothing keeps from being renewed."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from uuid import uuid4

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.application.turns import take_up
from domain.application.turns.runner import TurnRunner
from domain.application.turns.worker import Worker
from domain.errors import StoreUnavailable
from domain.ids import SHARDS, ThreadId, WorkerId
from domain.ports.leases import WorkerShare
from domain.ports.log import Append
from domain.thread.events import END, NodeEvent, TurnCompleted, TurnFailed
from infrastructure.memory.leases import MemoryLeaseStore
from infrastructure.memory.wakeups import MemoryWakeups
from tests.support.runtime import Stage, one_node, stage


async def quick(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say("done")]


def knowing(name: str, run: object = quick) -> Agent:
    node = Node("only", run)  # type: ignore[arg-type]
    return Agent(Graph(name, "only", [node], {"only": END}))


def a_worker(played: Stage, *agents: Agent, hub: list[MemoryWakeups] | None = None, lease: float = 10.0) -> Worker:
    turns = TurnRunner(played.turns.services, {agent.name: agent for agent in agents})
    leases = played.leases
    return Worker(
        turns,
        leases,
        MemoryWakeups(hub),
        leases.suspects,
        leases.loans,
        WorkerId(uuid4()),
        "test",
        lease,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_worker_lends_turns_of_agents_that_it_does_not_know_to_one_that_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    played, hub = stage(knowing("solo")), list[MemoryWakeups]()
    owner, other = a_worker(played, knowing("else"), hub=hub), a_worker(played, knowing("solo"), hub=hub)
    for _ in range(20):  # in shards of both
        await played.begin("hello")
        played.thread_id = ThreadId(uuid4())
    async with owner.working(), asyncio.timeout(20):
        await until(lambda: "No worker knows the agent 'solo'" in caplog.text)
        async with other.working():
            while await played.store.runnable(range(SHARDS), 100):  # type: ignore[arg-type]
                await owner._find_work()
                await other._find_work()
                await asyncio.sleep(0)
    assert caplog.text.count("No worker knows the agent 'solo'") == 1
    events = [record.type for records in played.store._events.values() for record in records]  # type: ignore[attr-defined]
    assert events.count("TurnCompleted") == 20
    assert "TurnFailed" not in events


async def test_a_loan_to_a_worker_that_is_gone_is_made_to_another_one() -> None:
    async def stuck(_: TurnContext) -> Sequence[NodeEvent]:
        await asyncio.sleep(600)
        return ()

    played, hub = stage(knowing("solo")), list[MemoryWakeups]()
    owner = a_worker(played, hub=hub)
    first, second = a_worker(played, knowing("solo", stuck), hub=hub), a_worker(played, knowing("solo"), hub=hub)
    async with owner.working(), asyncio.timeout(20):
        first.shards.standby = True
        await first.begin()
        await played.begin("hello")
        await owner._find_work()
        await until(lambda: bool(first.turns.running()))
        await first.end(grace=0)
        second.shards.standby = True
        async with second.working():
            while not await played.happened(TurnCompleted):
                await owner._find_work()
                await asyncio.sleep(0)
    assert await played.leases.suspects.of(range(SHARDS)) == {}  # type: ignore[arg-type]


async def test_threads_that_cannot_run_here_hide_none_that_can_and_are_loaded_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domain.application.turns.worker.MAX_PAGE_THREADS", 10)
    monkeypatch.setattr("domain.application.turns.worker.MAX_PAGES_PER_TICK", 2)
    played = stage(knowing("solo"))
    for _ in range(200):
        await played.begin("hello")
        played.thread_id = ThreadId(uuid4())
    played.agent = knowing("other")
    for _ in range(20):
        await played.begin("hello")
        played.thread_id = ThreadId(uuid4())
    worker = a_worker(played, knowing("other"))
    loads = 0
    load = played.repository.load

    async def counting(*arguments: object) -> object:
        nonlocal loads
        loads += 1
        return await load(*arguments)  # type: ignore[arg-type]

    async with worker.working(), asyncio.timeout(20):
        while len(await played.store.runnable(range(SHARDS), 1_000)) > 200:  # type: ignore[arg-type]
            await worker._find_work()
            await asyncio.sleep(0)
        for _ in range(20):  # every thread is met by now
            await worker._find_work()
            await asyncio.sleep(0)
        monkeypatch.setattr(played.repository, "load", counting)
        for _ in range(50):
            await worker._find_work()
            await asyncio.sleep(0)
    assert loads == 0
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


class Hot:
    """A store of answers that is away."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.asked = 0

    async def put(self, append: Append) -> None:
        raise StoreUnavailable

    async def get(self, thread_id: ThreadId) -> Append | None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(600)
        raise StoreUnavailable

    async def drop(self, thread_id: ThreadId) -> None:
        return


@pytest.mark.parametrize("hangs", [True, False])
async def test_turns_go_on_while_answers_are_held_where_none_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    hangs: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(take_up, "HOT_TIMEOUT_S", 0.01)
    played = stage(one_node(quick), hot=Hot(hangs=hangs))
    hot = played.turns.services.hot
    assert isinstance(hot, Hot)
    await played.begin("hello")
    async with asyncio.timeout(20), played.worker().working():
        await played.settled()
    assert hot.asked == 0, "only turns of durability `async` can have an answer there"
    await played.begin("again", durability="async")
    async with asyncio.timeout(20), played.worker().working():
        await played.settled()
    assert hot.asked == 1
    assert len(await played.happened(TurnCompleted)) == 2


class Leases(MemoryLeaseStore):
    """Leases whose store can be away."""

    away = False

    async def renew(
        self, worker: WorkerId, name: str, ttl: float, *, standby: bool = False, agents: Collection[str] = ()
    ) -> WorkerShare:
        if self.away:
            raise StoreUnavailable
        return await super().renew(worker, name, ttl, standby=standby, agents=agents)


async def test_after_the_store_was_away_workers_leave_each_other_the_time_to_renew() -> None:
    played = stage(one_node(quick))
    played.leases = leases = Leases(played.clock, played.leases.log)
    one, other = a_worker(played, lease=0.4), a_worker(played, lease=0.4)
    await one.shards.share()
    await other.shards.share()
    await one.shards.share()
    for _ in range(3):
        await asyncio.sleep(0.001)
        await one.shards.share()
        await other.shards.share()
    before = {shard: lease.epoch for shard, lease in one.shards._held.items()}
    assert before
    assert other.shards.held()
    played.clock.pass_(100)  # both leases have run out
    other.shards._valid_until = 0.0
    leases.away = True
    with pytest.raises(StoreUnavailable):
        await one.shards.share()
    leases.away = False
    await other.shards.share()  # it is back first, and may not take what the other one still runs
    await one.shards.share()
    assert one.shards.epochs() == before


async def test_leases_are_renewed_while_a_turn_that_is_to_be_abandoned_does_not_end() -> None:
    played = stage(one_node(quick))
    worker = a_worker(played, knowing("solo"), lease=0.5)
    abandoning = asyncio.Event()

    async def stuck(_: object) -> None:
        abandoning.set()
        await asyncio.sleep(600)

    worker.shards.abandon = stuck
    await worker.begin()
    try:
        rival = WorkerId(uuid4())
        await played.leases.renew(rival, "rival", 600)
        await asyncio.wait_for(abandoning.wait(), 20)  # it gives half of its shards back, which takes for ever
        held = set(worker.shards.held())
        played.clock.pass_(1)
        async with asyncio.timeout(20):
            while played.clock.now() not in {row.seen_at for row in await played.leases.workers()}:
                await asyncio.sleep(0.01)
        assert set(worker.shards.held()) == held
        assert len(held) == SHARDS // 2
    finally:
        worker.shards.abandon = worker._take_up.abandon
        for task in worker._tasks:
            task.cancel()
        await worker.end(grace=0)
    assert not await played.happened(TurnFailed)
