"""Shorthands for leases."""

from uuid import uuid4

from domain.ids import SHARDS, Shard, WorkerId
from domain.ports.leases import Lease, LeaseStore


async def taken(store: LeaseStore, shard: Shard, ttl: float = 60) -> Lease:
    """Have a new worker take a shard, and all others, from whoever has them."""
    for row in await store.workers():
        await store.leave(row.id)
    worker = WorkerId(uuid4())
    await store.renew(worker, "test", ttl)
    leases = await store.claim(worker, ttl, SHARDS)
    return next(lease for lease in leases if lease.shard == shard)
