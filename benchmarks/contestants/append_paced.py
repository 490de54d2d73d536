"""Appends turns to ever new threads, at a rate or as fast as it can, and says when each append was durable.

A stream appends a thread's events in their order, some at a time, and begins another thread at its end. Instants are
of the monotonic clock, which all processes of a machine share.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import uvloop
from msgspec.structs import replace

from benchmarks.bulk_log import MARK, models
from benchmarks.side_by_side.figures import Figures, options, say
from domain.ids import DEFAULT_TENANT, ThreadId, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Draft, chain_records
from domain.ports.log import Append
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool

TOLD = 1_000
"""Appends that are told of at most: evenly spread."""


@dataclass
class Pace:
    """When the streams' next append is due. `interval` is in seconds, 0 for at once."""

    interval: float
    until: float
    due: float = field(default_factory=time.monotonic)
    events: int = 0
    seen: list[tuple[int, int, float]] = field(default_factory=list)
    """Slice, last position and instant."""

    async def wait(self) -> bool:
        """Wait for one's turn; False if time is up."""
        self.due += self.interval
        await asyncio.sleep(max(0.0, self.due - time.monotonic()) if self.interval else 0)
        return time.monotonic() < self.until


def drafts_of(number: int, thread: ThreadId) -> list[Draft]:
    """Make a thread's events."""
    model, own = models()[number % len(models())], str(thread)[: len(MARK)]
    return [
        replace(draft, payload=draft.payload.replace(MARK, own), metadata=draft.metadata.replace(MARK, own))
        for part in model.turns
        for draft in part
    ]


async def stream(store: PostgresEventStore, pace: Pace, number: int, batch: int) -> None:
    """Append until time is up."""
    while True:
        thread, head, number = ThreadId(uuid4()), EMPTY_HEAD, number + 1
        slice_, drafts = slice_of(thread), drafts_of(number, thread)
        for first in range(0, len(drafts), batch):
            if not await pace.wait():
                return
            records, after = chain_records(
                DEFAULT_TENANT, thread, head, drafts[first : first + batch], datetime.now(UTC)
            )
            position = await store.append(Append(DEFAULT_TENANT, thread, head, after, records, in_turn=False))
            pace.events += len(records)
            head = after
            pace.seen.append((slice_, position + len(records) - 1, time.monotonic()))


async def main(arguments: argparse.Namespace) -> Figures:
    models()
    pool = await open_pool(arguments.database, max_size=20)
    store, began = PostgresEventStore(pool), time.monotonic()
    interval = arguments.batch / arguments.rate if arguments.rate else 0.0
    pace = Pace(interval, began + arguments.seconds)
    await asyncio.gather(*[stream(store, pace, number, arguments.batch) for number in range(arguments.streams)])
    ended = time.monotonic()
    await store.close()
    await pool.close()
    rate, some = pace.events / (ended - began), pace.seen[:: len(pace.seen) // TOLD + 1]
    return {"rate": rate, "events": pace.events, "began": began, "ended": ended, "seen": some}


if __name__ == "__main__":
    say(uvloop.run(main(options(rate=float, seconds=float, streams=int, batch=int))))
