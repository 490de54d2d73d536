"""What every store of suspects and of loans does."""

import asyncio
from uuid import uuid4

from domain.ids import SHARDS, Shard, ThreadId, Version, WorkerId, shard_of, slice_of
from domain.log.hash_chain import EMPTY_HEAD
from domain.ports.leases import Lease, LeaseStore
from domain.ports.loans import Loan, Loans
from domain.ports.log import Append, EventStore, Fence
from domain.ports.suspects import Suspect, Suspects
from tests.streams import ACME, NOON, SECOND, appending, new_thread

SHORT = 0.3
LONG = 60.0


async def a_worker(store: LeaseStore, ttl: float = LONG) -> WorkerId:
    worker = WorkerId(uuid4())
    await store.renew(worker, "host:1", ttl, agents=["support"])
    return worker


async def claimed(store: LeaseStore, worker: WorkerId, ttl: float = LONG) -> dict[Shard, Lease]:
    return {lease.shard: lease for lease in await store.claim(worker, ttl, SHARDS)}


async def begun(store: EventStore) -> Append:
    append = appending(new_thread(), EMPTY_HEAD, "{}", at=NOON, in_turn=True)
    await store.append(append)
    return append


async def end(store: EventStore, append: Append) -> None:
    await store.append(appending(append.thread_id, append.head, "{}", at=NOON + SECOND))


def shard(thread_id: ThreadId) -> Shard:
    return shard_of(slice_of(thread_id))


async def test_who_crashes_leaves_suspects_and_who_leaves_does_not(
    event_store: EventStore, lease_store: LeaseStore, suspects: Suspects
) -> None:
    running, idle = await begun(event_store), appending(new_thread(), EMPTY_HEAD, "{}", at=NOON)
    await event_store.append(idle)
    leaving = await a_worker(lease_store)
    await claimed(lease_store, leaving)
    await lease_store.leave(leaving)
    giving = await a_worker(lease_store)
    await claimed(lease_store, giving)
    await lease_store.release(giving, range(SHARDS))  # type: ignore[arg-type]
    shards = [Shard(number) for number in range(SHARDS)]
    for crashes in (1, 2):
        dying = await a_worker(lease_store, SHORT)
        await claimed(lease_store, dying, SHORT)
        assert await suspects.of(shards) == (
            {running.thread_id: Suspect(crashes - 1, version=Version(1))} if crashes > 1 else {}
        )
        await asyncio.sleep(SHORT + 0.1)
        heir = await a_worker(lease_store)
        await claimed(lease_store, heir)
        assert await suspects.of(shards) == {running.thread_id: Suspect(crashes, version=Version(1))}
        assert await suspects.of([]) == {}
        assert await suspects.of([], [running.thread_id]) == {running.thread_id: Suspect(crashes, version=Version(1))}
        await lease_store.leave(heir)
    await end(event_store, running)
    assert await suspects.of(shards) == {}


async def test_crashes_that_a_thread_had_alone_count_by_themselves(event_store: EventStore, suspects: Suspects) -> None:
    running = await begun(event_store)
    assert await suspects.crashed_alone(running.thread_id) == Suspect(0, 1, Version(1))
    assert await suspects.crashed_alone(running.thread_id) == Suspect(0, 2, Version(1))
    assert await suspects.of([], [running.thread_id]) == {running.thread_id: Suspect(0, 2, Version(1))}
    await suspects.cleared(running.thread_id)
    assert await suspects.of([], [running.thread_id]) == {}
    assert Suspect(1).isolated is False
    assert Suspect(2).isolated
    assert not Suspect(99).convicted, "only a turn that ran alone is convicted"
    assert Suspect(0, 2).convicted


async def test_a_claim_says_where_the_slices_ended(event_store: EventStore, lease_store: LeaseStore) -> None:
    before = await begun(event_store)
    worker = await a_worker(lease_store)
    lease = (await claimed(lease_store, worker))[shard(before.thread_id)]
    heads = await event_store.slice_heads()
    slices = [number for number in range(1024) if shard_of(number) == lease.shard]  # type: ignore[arg-type]
    assert list(lease.heads) == [heads[number] for number in slices]
    assert sum(lease.heads) == 1


async def test_a_loan_is_the_other_workers_until_the_epoch_ends_or_it_is_given_back(
    event_store: EventStore, lease_store: LeaseStore, loans: Loans
) -> None:
    append = await begun(event_store)
    owner, other = await a_worker(lease_store), await a_worker(lease_store)
    assert [row.agents for row in await lease_store.workers()] == [("support",)] * 2
    lease = (await claimed(lease_store, owner))[shard(append.thread_id)]
    loan = Loan(append.thread_id, ACME, Fence(lease.shard, lease.epoch), other)
    await loans.lend(loan)
    assert await loans.lent_to(other) == [loan]
    assert await loans.lent_to(owner) == []
    assert await loans.lent_from([lease.shard]) == {append.thread_id}
    await loans.give_back(other, append.thread_id)
    assert await loans.lent_to(other) == [loan], "it has something to run"
    await end(event_store, append)
    (lent,) = await loans.lent_to(other)
    assert not lent.runnable
    await loans.give_back(owner, append.thread_id)
    assert await loans.lent_to(other) == [lent]
    await loans.give_back(other, append.thread_id)
    assert await loans.lent_to(other) == []
    await loans.lend(loan)
    await lease_store.leave(owner)
    await claimed(lease_store, other)
    assert await loans.lent_to(other) == []


async def test_a_loan_whose_worker_crashed_makes_a_suspect_of_its_thread(
    event_store: EventStore, lease_store: LeaseStore, loans: Loans, suspects: Suspects
) -> None:
    append = await begun(event_store)
    owner, leaving, dying = (
        await a_worker(lease_store),
        await a_worker(lease_store),
        await a_worker(lease_store, SHORT),
    )
    lease = (await claimed(lease_store, owner))[shard(append.thread_id)]
    loan = Loan(append.thread_id, ACME, Fence(lease.shard, lease.epoch), leaving)
    await loans.lend(loan)
    await lease_store.leave(leaving)
    await loans.lend(Loan(append.thread_id, ACME, loan.fence, dying))
    assert await suspects.of([lease.shard]) == {}
    await asyncio.sleep(SHORT + 0.1)
    await loans.lend(Loan(append.thread_id, ACME, loan.fence, await a_worker(lease_store)))
    assert await suspects.of([lease.shard]) == {append.thread_id: Suspect(1, version=Version(1))}
