"""Recovery of reservations whose process died, was frozen, or could not reach the ledger."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.application.budget.limits_cache import LimitsCache
from domain.application.budget.reservations import Recovered, Reservations
from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Price, Prices
from domain.errors import StoreUnavailable
from domain.ids import SHARDS, Shard, shard_of, slice_of
from domain.money import PER_DOLLAR
from domain.ports.ledger import Amount, Granted, Ledger, Refused, Reservation, Scope, ScopeLimits
from domain.ports.log import EventStore, Fence
from domain.thread.codec import Metadata
from domain.thread.events import Event, Limit, ModelCalled, StateUpdated
from infrastructure.memory.ledger import MemoryLedger
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.contracts.test_ledger import a_call
from tests.streams import ACME
from tests.support.given import A_RUNNING_TURN
from tests.support.runtime import Clock

PRICES = Prices(Clock().now().date(), {"gpt": Price(1.0, 2.0)})
TAKEN = Amount(30, 40 * PER_DOLLAR // 1_000_000)
"""20 tokens of a prompt and 10 of its answer."""
LIMIT = Limit("day", 100)


class World:
    """A log, a ledger with a limit, and workers that come and go."""

    def __init__(self, events: EventStore, ledger: Ledger) -> None:
        self.clock = Clock()
        self.ledger = ledger
        self.repository = ThreadRepository(events, MemorySnapshotStore(), self.clock, fingerprint="test")
        self.worker = self.new_worker()

    def new_worker(self, ledger: Ledger | None = None) -> Reservations:
        ledger = ledger or self.ledger
        return Reservations(ledger, LimitsCache(ledger, self.clock), self.repository, PRICES)

    async def limit(self, limit: Limit = LIMIT) -> None:
        await self.worker.limits.set(ScopeLimits(Scope(ACME), (limit,), self.clock.now(), None), {})

    async def a_call(self, epoch: int | None = 1, *, after: int = 0, **more: Any) -> Reservation:
        """Make a reservation for a call in a thread that has `after` events after its turn began."""
        call = a_call(50, 10**12, at=self.clock.now(), **more)
        await self.write(call, *A_RUNNING_TURN, *[StateUpdated({"n": n}) for n in range(after)])
        shard = shard_of(slice_of(call.thread_id))
        return replace(call, fence=None if epoch is None else Fence(shard, epoch))

    async def write(self, call: Reservation, *events: Event) -> None:
        self.clock.pass_(0.5)
        await self.repository.append(
            self.repository.chain(await self.repository.load(call.thread_id, ACME), events, Metadata())
        )

    async def answered(self, call: Reservation, *, by: UUID | None = None) -> None:
        answer = ModelCalled("gpt-5", 20, 10, 7, "stop", reservation=by or call.id)
        await self.write(call, answer)

    async def sums(self) -> tuple[Amount, Amount]:
        (usage,) = await self.ledger.limit_usage(ACME, self.clock.now())
        return usage.spent, usage.reserved


@pytest.fixture
async def world(event_store: EventStore, ledger: Ledger) -> World:
    world = World(event_store, ledger)
    await world.limit()
    return world


def held(epoch: int) -> dict[Shard, int]:
    return {Shard(number): epoch for number in range(SHARDS)}


async def test_who_died_before_the_answer_has_spent_nothing(world: World) -> None:
    call = await world.a_call()
    assert await world.worker.reserve(call) == Granted()
    assert (await world.sums())[1] == call.worst_case
    heir = world.new_worker()
    assert await heir.recover(held(2)) == Recovered(released=1)
    assert await world.sums() == (Amount(), Amount())
    assert await heir.recover(held(2)) == Recovered()


@pytest.mark.parametrize("later", [0, 250])
async def test_who_died_after_the_answer_was_stored_has_spent_it_once(world: World, later: int) -> None:
    call = await world.a_call(after=120)
    await world.worker.reserve(call)
    await world.answered(call)
    await world.write(call, *[StateUpdated({"later": n}) for n in range(later)])
    heirs = [world.new_worker() for _ in range(3)]
    await asyncio.gather(*[heir.recover(held(2)) for heir in heirs])
    assert await world.sums() == (TAKEN, Amount())
    await world.worker.settle(call.id, TAKEN)  # it was not dead, only frozen
    assert await world.sums() == (TAKEN, Amount())


async def test_the_answers_of_other_calls_are_not_this_one(world: World) -> None:
    call = await world.a_call()
    await world.answered(call, by=UUID(int=7))
    await world.worker.reserve(call)
    await world.answered(call, by=UUID(int=8))
    await world.new_worker().recover(held(2))
    assert await world.sums() == (Amount(), Amount())


async def test_only_what_can_be_the_answer_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    call = await world.a_call(after=2_000)
    world.clock.pass_(60)
    call = replace(call, at=world.clock.now())
    await world.worker.reserve(call)
    read: list[int] = []
    history = world.repository.history

    async def counting(*arguments: Any) -> Sequence[Any]:
        page = await history(*arguments)
        read.append(len(page))
        return page

    monkeypatch.setattr(world.repository, "history", counting)
    assert await world.new_worker().recover(held(2)) == Recovered(released=1)
    assert read == [100]


async def test_a_call_that_is_live_is_left_alone_under_the_same_epoch_and_a_newer_one(world: World) -> None:
    call = await world.a_call(epoch=1)
    await world.worker.reserve(call)
    for epoch in (1, 2):
        assert await world.worker.recover(held(epoch)) == Recovered()
    await world.worker.settle(call.id, TAKEN)
    assert await world.sums() == (TAKEN, Amount())


async def test_who_has_lost_the_lease_leaves_the_calls_of_the_new_owner_alone(world: World) -> None:
    owner, call = world.new_worker(), await world.a_call(epoch=5)
    await owner.reserve(call)
    assert await world.worker.recover(held(4)) == Recovered()
    assert await world.worker.recover({}) == Recovered()
    assert (await world.sums())[1] == call.worst_case
    assert await world.new_worker().recover(held(5)) == Recovered(released=1), "the owner has died under its lease"


async def test_a_call_under_no_lease_or_of_no_thread_is_ended_too(world: World) -> None:
    await world.worker.reserve(await world.a_call(epoch=None))
    await world.worker.reserve(a_call(7, at=world.clock.now()))
    assert await world.new_worker().recover(held(1)) == Recovered(released=2)


async def test_many_that_died_together_are_ended_each_in_its_way(world: World) -> None:
    await world.limit(Limit("day", 10**6))
    calls = [await world.a_call() for _ in range(30)]
    for number, call in enumerate(calls):
        await world.worker.reserve(call)
        if number % 3 == 0:
            await world.answered(call)
    assert await world.new_worker().recover(held(2)) == Recovered(settled=10, released=20)
    assert await world.sums() == (Amount(10 * TAKEN.tokens, 10 * TAKEN.cost), Amount())


async def test_where_nothing_limits_a_call_nobody_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.worker.limits.set(ScopeLimits(Scope(ACME), (Limit("turn", 5),), world.clock.now(), None), {})
    await world.worker.limits.of(ACME)
    for method in ("limits", "reserve", "settle", "release"):
        monkeypatch.setattr(world.ledger, method, None)
    call = await world.a_call()
    assert await world.worker.reserve(call) == Granted()
    assert await world.worker.settle(call.id, TAKEN) == ()
    await world.worker.settle(call.id, None)


async def test_a_call_that_is_refused_is_over(world: World) -> None:
    call = await world.a_call()
    assert isinstance(await world.worker.reserve(replace(call, worst_case=Amount(101))), Refused)
    assert await world.worker.settle(call.id, TAKEN) == ()
    assert await world.sums() == (Amount(), Amount())


class Away(MemoryLedger):
    """A ledger whose answers are lost as long as it is `away`."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def reserve(self, reservation: Reservation) -> Granted | Refused:
        answer = await super().reserve(reservation)
        self._lost()
        return answer

    async def settle(self, reservation: UUID, spent: Amount, *, quietly: bool = False) -> Any:
        self._lost()
        return await super().settle(reservation, spent, quietly=quietly)

    def _lost(self) -> None:
        if self.away:
            raise StoreUnavailable


async def test_what_could_not_be_settled_is_settled_later(event_store: EventStore) -> None:
    world = World(event_store, ledger := Away())
    await world.limit()
    call = await world.a_call()
    await world.worker.reserve(call)
    ledger.away = True
    assert await world.worker.settle(call.id, TAKEN) == ()
    with pytest.raises(StoreUnavailable):
        await world.worker.recover(held(1))
    ledger.away = False
    await world.worker.recover(held(1))
    assert await world.sums() == (TAKEN, Amount())


async def test_what_was_reserved_without_an_answer_comes_back(event_store: EventStore) -> None:
    world = World(event_store, ledger := Away())
    await world.limit()
    ledger.away = True
    with pytest.raises(StoreUnavailable):
        await world.worker.reserve(await world.a_call())
    ledger.away = False
    assert (await world.sums())[1] != Amount()
    await world.worker.recover(held(1))
    assert await world.sums() == (Amount(), Amount())


class Slow(MemoryLedger):
    """A slow ledger that counts the queries of limits."""

    asked = 0

    async def limits(self, tenant: Any, subjects: Any = None) -> Any:
        self.asked += 1
        found = await super().limits(tenant, subjects)
        await asyncio.sleep(0.01)
        return found


class TestKnownLimits:
    async def test_limits_are_asked_for_once_a_second_by_all_together(self) -> None:
        ledger, clock = Slow(), Clock()
        known = LimitsCache(ledger, clock)
        assert await asyncio.gather(*[known.of(ACME) for _ in range(9)]) == [[]] * 9
        clock.pass_(0.99)
        await known.of(ACME)
        assert ledger.asked == 1
        clock.pass_(0.01)
        await known.of(ACME)
        assert ledger.asked == 2

    async def test_a_clock_that_is_set_back_keeps_nothing_for_longer(self) -> None:
        ledger, clock = Slow(), Clock()
        known = LimitsCache(ledger, clock)
        await known.of(ACME)
        clock.pass_(-timedelta(days=1).total_seconds())
        await known.of(ACME)
        assert ledger.asked == 2

    async def test_what_is_set_here_holds_at_once_also_for_who_was_just_asking(self) -> None:
        ledger, clock = Slow(), Clock()
        known = LimitsCache(ledger, clock)
        asking = asyncio.create_task(known.of(ACME))
        await asyncio.sleep(0)
        await known.set(ScopeLimits(Scope(ACME), (LIMIT,), clock.now(), None), {})
        assert await asking == []
        assert [given.limits for given in await known.of(ACME)] == [(LIMIT,)]

    async def test_what_another_process_sets_holds_after_a_moment(self) -> None:
        ledger, clock = Slow(), Clock()
        known = LimitsCache(ledger, clock)
        await known.of(ACME)
        await LimitsCache(ledger, clock).set(ScopeLimits(Scope(ACME), (LIMIT,), clock.now(), None), {})
        assert await known.of(ACME) == []
        clock.pass_(1)
        assert [given.limits for given in await known.of(ACME)] == [(LIMIT,)]
