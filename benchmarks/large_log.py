"""A log of many turns of thirty days, with the texts of the recorded conversations, written in one go."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec.structs import replace

from domain.ids import DEFAULT_TENANT, SLICES, CommandId, Position, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Head, Record, chain_records
from domain.ports.log import Append, ThreadRow
from domain.thread.codec import Metadata, encode
from examples.airline.recordings import conversations
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from tests.chaos.projections import turn

DAYS = 30

WRITTEN = 20_000
"""Events that are written at a time."""


def recorded_texts() -> Sequence[str]:
    """List what customers and the agent said."""
    return [
        message["content"]
        for conversation in conversations().values()
        for message in conversation.messages
        if message["role"] in {"user", "assistant"} and message["content"]
    ]


async def fill(url: str, events: int, threads: int) -> dict[ThreadId, Head]:
    """Write a log, and say where each thread ends."""
    chance, began, texts = random.Random(1), datetime.now(UTC) - timedelta(days=DAYS), recorded_texts()
    positions = [0] * SLICES
    ends: dict[ThreadId, Head] = {}
    pool = await open_pool(url, max_size=2)
    async with PostgresArchive(pool).writing() as writing:
        batch: list[Record] = []
        rows: list[ThreadRow] = []
        written = 0
        for number in range(threads):
            thread_id, head = ThreadId(UUID(int=chance.getrandbits(128))), EMPTY_HEAD
            at = began + timedelta(days=DAYS * number / threads)
            while head.version < events / threads:
                at += timedelta(minutes=chance.uniform(1, 90))
                metadata = Metadata(command=CommandId(UUID(int=chance.getrandbits(128))), actor=f"user-{number % 100}")
                drafts = [encode(event, metadata) for event in turn(chance, head.version, texts)]
                records, head = chain_records(DEFAULT_TENANT, thread_id, head, drafts, at)
                slice_ = slice_of(thread_id)
                for record in records:
                    positions[slice_] += 1
                    batch.append(replace(record, position=Position(positions[slice_])))
            rows.append(ThreadRow(DEFAULT_TENANT, thread_id, head, batch[-1].recorded_at, in_turn=False))
            ends[thread_id] = head
            if len(batch) > WRITTEN or number == threads - 1:
                await writing.add_events(batch)
                await writing.add_threads(rows)
                written += len(batch)
                batch, rows = [], []
        await writing.set_heads([Position(position) for position in positions])
    await pool.close()
    print(f"{written:,} events in {threads:,} threads")
    return ends


async def append(url: str, ends: dict[ThreadId, Head], rate: int, done: asyncio.Event) -> int:
    """Append turns to some of the threads, `rate` events a second, until `done`. Count the events."""
    pool, chance, texts = await open_pool(url, max_size=4), random.Random(2), recorded_texts()
    some = list(ends)[-500:]
    store, started, appended = PostgresEventStore(pool), time.monotonic(), 0
    while not done.is_set():
        thread_id = chance.choice(some)
        head = ends[thread_id]
        drafts = [encode(event, Metadata()) for event in turn(chance, head.version, texts)]
        records, after = chain_records(DEFAULT_TENANT, thread_id, head, drafts, datetime.now(UTC))
        await store.append(Append(DEFAULT_TENANT, thread_id, head, after, records, in_turn=False))
        ends[thread_id] = after
        appended += len(records)
        await asyncio.sleep(max(0.0, started + appended / rate - time.monotonic()))
    await store.close()
    await pool.close()
    return appended
