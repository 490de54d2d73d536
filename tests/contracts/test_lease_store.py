"""What every lease store does."""

import asyncio
from uuid import uuid4

from domain.ids import SHARDS, Shard, WorkerId
from domain.ports.leases import LeaseStore

SHORT = 0.05
LONG = 600.0


def a_worker() -> WorkerId:
    return WorkerId(uuid4())


async def came(store: LeaseStore, ttl: float = LONG, *, claims: int = 0, standby: bool = False) -> WorkerId:
    worker = a_worker()
    await store.renew(worker, "host:1", ttl, standby=standby)
    await store.claim(worker, ttl, claims)
    return worker


async def held(store: LeaseStore, worker: WorkerId, ttl: float = LONG) -> tuple[Shard, ...]:
    return tuple(lease.shard for lease in (await store.renew(worker, "host:1", ttl)).leases)


async def ran_out(store: LeaseStore, worker: WorkerId) -> None:
    """Let what a worker has run out: it renews its leases for a moment, and not again."""
    await store.renew(worker, "host:1", SHORT)
    await asyncio.sleep(2 * SHORT)


async def test_a_worker_claims_what_is_free(lease_store: LeaseStore) -> None:
    one, two = await came(lease_store), await came(lease_store)
    assert len(await lease_store.claim(one, LONG, 40)) == 40
    assert len(await lease_store.claim(two, LONG, 40)) == SHARDS - 40
    assert await lease_store.claim(two, LONG, 40) == []
    assert await lease_store.claim(one, LONG, 0) == []
    both = (*await held(lease_store, one), *await held(lease_store, two))
    assert sorted(both) == list(range(SHARDS))


async def test_of_workers_that_come_at_once_no_two_get_the_same_shard(lease_store: LeaseStore) -> None:
    workers = [await came(lease_store) for _ in range(8)]
    claims = await asyncio.gather(*[lease_store.claim(worker, LONG, 8) for worker in workers])
    shards = [lease.shard for leases in claims for lease in leases]
    assert len(shards) == len(set(shards))
    while await lease_store.claim(workers[0], LONG, SHARDS):  # what was locked at that moment was left out
        pass
    assert sum(len(row.shards) for row in await lease_store.workers()) == SHARDS


async def test_a_lease_that_ran_out_is_taken_over_under_a_new_epoch(lease_store: LeaseStore) -> None:
    dead = await came(lease_store)
    before = {lease.shard: lease for lease in await lease_store.claim(dead, LONG, SHARDS)}
    heir = await came(lease_store)
    assert await lease_store.claim(heir, LONG, SHARDS) == []
    await ran_out(lease_store, dead)
    after = {lease.shard: lease for lease in await lease_store.claim(heir, LONG, SHARDS)}
    assert after.keys() == before.keys()
    assert all(after[shard].epoch == before[shard].epoch + 1 for shard in after)
    assert all(after[shard].since > before[shard].since for shard in after)
    assert await held(lease_store, dead) == ()


async def test_renewing_keeps_leases_even_late_if_nobody_has_taken_them(lease_store: LeaseStore) -> None:
    worker = await came(lease_store, claims=5)
    await ran_out(lease_store, worker)
    kept = await held(lease_store, worker)
    assert len(kept) == 5
    other = await came(lease_store)
    assert not set(kept) & {lease.shard for lease in await lease_store.claim(other, LONG, SHARDS)}


async def test_released_shards_are_free_and_those_of_others_stay(lease_store: LeaseStore) -> None:
    one, two = await came(lease_store, claims=32), await came(lease_store, claims=32)
    ours, theirs = await held(lease_store, one), await held(lease_store, two)
    await lease_store.release(one, (*ours[:3], *theirs[:3]))
    assert await held(lease_store, one) == ours[3:]
    assert await held(lease_store, two) == theirs
    assert {lease.shard for lease in await lease_store.claim(two, LONG, SHARDS)} == set(ours[:3])


async def test_who_leaves_has_nothing_and_is_no_worker(lease_store: LeaseStore) -> None:
    gone, other = await came(lease_store, claims=SHARDS), await came(lease_store)
    await lease_store.leave(gone)
    assert [row.id for row in await lease_store.workers()] == [other]
    assert len(await lease_store.claim(other, LONG, SHARDS)) == SHARDS


async def test_shares_count_who_is_alive_and_not_on_standby(lease_store: LeaseStore) -> None:
    gone = await came(lease_store)
    await came(lease_store, standby=True)
    worker = await came(lease_store)
    assert (await lease_store.renew(worker, "host:1", LONG)).workers == 2
    assert (await lease_store.renew(a_worker(), "host:2", LONG, standby=True)).workers == 2
    await ran_out(lease_store, gone)
    assert (await lease_store.renew(worker, "host:1", LONG)).workers == 1


async def test_workers_are_listed_with_their_shards_the_oldest_first(lease_store: LeaseStore) -> None:
    old = await came(lease_store, claims=2)
    new = await came(lease_store, standby=True)
    first, second = await lease_store.workers()
    assert (first.id, first.name, first.standby, first.shards) == (old, "host:1", False, await held(lease_store, old))
    assert (second.id, second.standby, second.shards) == (new, True, ())
    assert first.started_at <= second.started_at
    assert first.seen_at >= first.started_at
