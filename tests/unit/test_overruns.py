"""An overrun that is looked up in a thread's past equals the one that was carried along event by event."""

import random
from collections.abc import Sequence
from datetime import date
from uuid import UUID, uuid4

import pytest

from domain.application.fork import Fork, fork
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Price, Prices
from domain.ids import DEFAULT_TENANT, START, Tenant, ThreadId, Version
from domain.thread.codec import Metadata, decode
from domain.thread.events import (
    BudgetSet,
    Event,
    Limit,
    MessageAppended,
    ModelCalled,
    ThreadOpened,
    TurnCompleted,
    TurnStarted,
)
from domain.windows import WINDOWS, starts_of
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from projections.engine.budget_overruns import Overrun, find_overrun
from projections.engine.thread_cache import ThreadCache
from tests.support.examples import examples
from tests.support.runtime import Clock

PRICES = Prices(date(2026, 11, 1), {"m": Price(1.0, 2.0)})
CALLED = ModelCalled("m", 40, 10, 5, "stop")
PAUSES = (0, 0, 0, 60, 60, 600, 3_600, 30_000, 300_000)


class CountingJournal(ThreadRepository):
    """Counts how often a thread is loaded at a version."""

    looks = 0

    async def load_at(self, thread_id: ThreadId, version: Version, tenant: Tenant = DEFAULT_TENANT) -> LoadedThread:
        self.looks += 1
        return await super().load_at(thread_id, version, tenant)


class Desk:
    """A repository with a clock that is set by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.repository = CountingJournal(MemoryEventStore(), MemorySnapshotStore(), self.clock, fingerprint="test")
        self.thread_id = ThreadId(uuid4())

    async def append(self, *events: Event, pause: float = 0) -> None:
        self.clock.pass_(pause)
        await self.repository.append(
            self.repository.chain(await self.repository.load(self.thread_id), events, Metadata())
        )

    async def turn(self, chance: random.Random) -> None:
        """Run a turn with some calls, and set budgets before, during and after it."""
        turn_id = UUID(int=chance.getrandbits(64))
        begun = [TurnStarted(turn_id, "n", "f00"), MessageAppended("user", "hello", 1)]
        for event in (*begun, *[CALLED] * chance.randrange(4), TurnCompleted(turn_id)):
            if chance.random() < 0.15:
                await self.append(budget(chance), pause=chance.choice(PAUSES))
            await self.append(event, pause=chance.choice(PAUSES))

    async def left(self, at_version: Version, *, resume: bool = False) -> None:
        """Go on in a fork."""
        forked = ThreadId(uuid4())
        await fork(self.repository, forked, Fork(self.thread_id, at_version, resume=resume), Metadata())
        self.thread_id = forked


def budget(chance: random.Random) -> BudgetSet:
    windows = sorted(chance.sample(WINDOWS, chance.randrange(5)), key=WINDOWS.index)
    kinds = [(50, None), (120, None), (10**6, None), (None, 120_000_000), (200, 300_000_000)]
    return BudgetSet(tuple(Limit(window, *chance.choice(kinds)) for window in windows))


async def told(desk: Desk) -> Sequence[Overrun | None]:
    """Apply a thread's own events one by one, and return the overrun after each."""
    cache, found = ThreadCache(desk.repository, PRICES), []
    origin = await desk.repository.origin(desk.thread_id)
    folded = await cache.load_at(desk.thread_id, DEFAULT_TENANT, origin.version if origin else START)
    for record in await desk.repository.store.read(desk.thread_id, START):
        context = folded.apply(decode(record), record.hash, PRICES)
        assert context.overrun_after == folded.overrun
        assert context.starts == starts_of(record.recorded_at)
        found.append(context.overrun_after)
    return found


@pytest.mark.parametrize("seed", range(examples(12)))
async def test_what_is_looked_up_at_any_version_is_what_was_told(seed: int) -> None:
    desk, chance = Desk(), random.Random(seed)
    await desk.append(ThreadOpened("assistant"))
    for number in range(24):
        await desk.turn(chance)
        if number in {1, 3}:
            await desk.left((await desk.repository.load(desk.thread_id)).head.version)
            first = (await desk.repository.load(desk.thread_id)).head.version
    expected = await told(desk)
    assert len({over.version for over in expected if over}) > 1
    for version, over in enumerate(expected, first):
        loaded = await desk.repository.load_at(desk.thread_id, Version(version))
        assert await find_overrun(desk.repository, loaded, PRICES) == over
        assert (
            await ThreadCache(desk.repository, PRICES).load_at(desk.thread_id, DEFAULT_TENANT, Version(version))
        ).overrun == over


async def test_a_fork_in_the_turn_by_which_its_parent_went_over_is_so_since_it_was_made() -> None:
    desk = Desk()
    await desk.append(ThreadOpened("assistant"), BudgetSet((Limit("lifetime", 50),)))
    await desk.append(TurnStarted(UUID(int=1), "n", "f00"), CALLED)
    desk.clock.pass_(60)
    await desk.left(Version(4), resume=True)
    forked = Overrun(Version(5), desk.clock.now(), None)
    assert await told(desk) == [forked]
    assert await find_overrun(desk.repository, await desk.repository.load(desk.thread_id), PRICES) == forked


async def test_looking_it_up_takes_few_looks_in_a_long_thread() -> None:
    desk = Desk()
    await desk.append(ThreadOpened("assistant"), BudgetSet((Limit("lifetime", 50 * 200),)))
    await desk.append(TurnStarted(UUID(int=1), "n", "f00"), *[CALLED] * 2_000)
    loaded = await desk.repository.load(desk.thread_id)
    over = await find_overrun(desk.repository, loaded, PRICES)
    assert over == Overrun(Version(203), desk.clock.now(), None)
    assert desk.repository.looks <= 13


async def test_a_thread_within_its_budget_is_not_looked_up() -> None:
    desk = Desk()
    await desk.append(ThreadOpened("assistant"), BudgetSet((Limit("lifetime", 51),)))
    await desk.append(TurnStarted(UUID(int=1), "n", "f00"), CALLED)
    assert await find_overrun(desk.repository, await desk.repository.load(desk.thread_id), PRICES) is None
    assert desk.repository.looks == 0
