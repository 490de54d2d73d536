"""A worker that has lost its lease stores nothing behind its successor's back, and the ledger misses no answer."""

import asyncio

import asyncpg
import pytest
from msgspec.structs import replace

from domain.application.budget.reservations import Recovered
from domain.errors import LeaseLost
from domain.ids import shard_of, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.ledger import Amount
from domain.ports.log import Append, EventStore, Fence
from domain.thread.codec import Metadata
from domain.thread.events import ModelCalled
from infrastructure.postgres.ledger import PostgresLedger
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from tests.integration.test_accounts import TAKEN, World, held
from tests.integration.test_group_commit import Watched
from tests.streams import ACME, appending, new_thread

HOLD = "SELECT FROM threads WHERE thread_id = $1 FOR UPDATE"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def fenced(append: Append, epoch: int) -> Append:
    return replace(append, fence=Fence(shard_of(slice_of(append.thread_id)), epoch))


class TestFencing:
    async def test_an_older_epoch_than_a_thread_has_seen_is_refused(self, event_store: EventStore) -> None:
        first = appending(new_thread(), EMPTY_HEAD, "{}")
        await event_store.append(first)
        assert set(await event_store.fence_threads({first.thread_id: 5})) == {first.thread_id}
        following = appending(first.thread_id, first.head, "{}")
        with pytest.raises(LeaseLost):
            await event_store.append(fenced(following, 4))
        await event_store.append(fenced(following, 5))
        command = appending(first.thread_id, following.head, "{}")
        await event_store.append(command)
        last = appending(first.thread_id, command.head, "{}")
        await event_store.append(fenced(last, 6))
        with pytest.raises(LeaseLost):
            await event_store.append(fenced(appending(first.thread_id, last.head, "{}"), 5))
        assert set(await event_store.fence_threads({first.thread_id: 5})) == set(), "it is another one's now"

    async def test_a_thread_that_there_is_not_needs_no_fence(self, event_store: EventStore) -> None:
        thread_id = new_thread()
        assert set(await event_store.fence_threads({thread_id: 3})) == {thread_id}
        assert await event_store.thread(thread_id) is None


async def test_an_answer_that_waits_for_a_lock_is_stored_and_counted_or_neither(
    database_url: str, owner: asyncpg.Connection
) -> None:
    async with await open_pool(database_url, max_size=4) as one, await open_pool(database_url, max_size=4) as other:
        former = World(PostgresEventStore(one), PostgresLedger(one))
        successor = World(PostgresEventStore(other), PostgresLedger(other))
        await former.limit()
        call = await former.a_call(epoch=1)
        await other.execute("UPDATE leases SET epoch = 1")
        await former.worker.reserve(call)
        loaded = await former.repository.load(call.thread_id, ACME)
        answer = ModelCalled("gpt-5", 20, 10, 7, "stop", reservation=call.id)
        async with owner.transaction():
            await owner.execute(HOLD, call.thread_id)
            late = asyncio.create_task(
                former.repository.append(former.repository.chain(loaded, [answer], Metadata()), fence=call.fence)
            )
            async with asyncio.timeout(30):
                while not await other.fetchval(WAITING):
                    await asyncio.sleep(0.02)
            await other.execute("UPDATE leases SET epoch = 2")
            assert await successor.worker.recover(held(2)) == Recovered(), "the answer may still come"
        (outcome,) = await asyncio.gather(late, return_exceptions=True)
        await successor.worker.recover(held(2))
        stored = not isinstance(outcome, BaseException)
        assert stored or isinstance(outcome, LeaseLost)
        assert await successor.sums() == (TAKEN if stored else Amount(), Amount())


async def test_an_answer_that_comes_after_its_reservation_was_given_back_is_refused(
    pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    """Its statement looked at the lease before that was taken over: only the thread's own row can tell it."""
    world = World(PostgresEventStore(pool), PostgresLedger(pool))
    await world.limit()
    call = await world.a_call(epoch=1)
    await world.worker.reserve(call)
    assert await world.new_worker().recover(held(2)) == Recovered(released=1)
    assert await owner.fetchval("SELECT max(epoch) FROM leases") == 0, "nothing else refuses it here"
    loaded = await world.repository.load(call.thread_id, ACME)
    answer = ModelCalled("gpt-5", 20, 10, 7, "stop", reservation=call.id)
    with pytest.raises(LeaseLost):
        await world.repository.append(world.repository.chain(loaded, [answer], Metadata()), fence=call.fence)
    assert await world.sums() == (Amount(), Amount())


async def test_an_append_whose_caller_has_left_is_waited_for(pool: asyncpg.Pool) -> None:
    """A turn was cancelled while its answer was on its way: under the same epoch, no fence refuses that."""
    watched = Watched(pool)
    world = World(PostgresEventStore(watched), PostgresLedger(pool))
    await world.limit()
    call = await world.a_call(epoch=1)
    await world.worker.reserve(call)
    loaded = await world.repository.load(call.thread_id, ACME)
    answer = ModelCalled("gpt-5", 20, 10, 7, "stop", reservation=call.id)
    sent = len(watched.groups)
    watched.open.clear()
    leaving = asyncio.create_task(
        world.repository.append(world.repository.chain(loaded, [answer], Metadata()), fence=call.fence)
    )
    async with asyncio.timeout(30):
        while len(watched.groups) == sent:
            await asyncio.sleep(0.01)
    leaving.cancel()
    world.worker.abandon([call.id])
    assert await world.worker.recover(held(1)) == Recovered()
    watched.open.set()
    store = world.repository.store
    assert isinstance(store, PostgresEventStore)
    await store.close()
    assert await world.worker.recover(held(1)) == Recovered(settled=1)
    assert await world.sums() == (TAKEN, Amount())
