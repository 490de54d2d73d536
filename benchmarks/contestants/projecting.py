"""Runs all projections over a part of the slices, in a process of its own, as a worker that leases them would.

Says `ready` once it is connected, and begins when it is told to by a line on its standard input. `--until caught_up`
ends when nothing is left to read there, `--until serving` when no read model is being built any more, and `--until
closed` when its standard input ends.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Collection

import asyncpg
import msgspec
import uvloop

from api.cli.bootstrap import tune_garbage_collection
from api.runtime.stores import SystemClock
from benchmarks.side_by_side.cpu import own_cpu
from benchmarks.side_by_side.figures import Figures, options, say
from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Prices
from domain.ids import SLICES, Slice
from infrastructure.fingerprint import fold_fingerprint
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.snapshots import PostgresSnapshotStore
from infrastructure.settings import Settings
from projections.engine.runner import MIN_REST_S, ProjectionRunner
from projections.registry import PROJECTIONS


def runner_on(pool: asyncpg.Pool, slices: Collection[Slice]) -> ProjectionRunner:
    """Make a runner that holds some slices."""
    clock = SystemClock()
    repository = ThreadRepository(
        PostgresEventStore(pool), PostgresSnapshotStore(pool), clock, fingerprint=fold_fingerprint()
    )
    prices = msgspec.json.decode(Settings.model_fields["prices"].default.read_bytes(), type=Prices)
    return ProjectionRunner(repository, PostgresReadModels(pool), PROJECTIONS, prices, clock, lambda: slices)


def part_of(number: int, of: int) -> Collection[Slice]:
    """List neighbouring slices, as shards are."""
    return [Slice(slice_) for slice_ in range(number * SLICES // of, (number + 1) * SLICES // of)]


async def is_done(runner: ProjectionRunner, until: str) -> bool:
    """Say whether there is nothing left to do."""
    if until == "serving":
        return not any(instance.status == "building" for instance in await runner.models.instances())
    groups = await runner.models.groups()
    return not any([await runner.models.behind(group.id, runner.held()) for group in groups])


async def main(arguments: argparse.Namespace) -> Figures:
    pool = await open_pool(arguments.database, max_size=4)
    runner = runner_on(pool, part_of(arguments.part, arguments.of))
    await runner.models.groups()
    tune_garbage_collection()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu, events = time.perf_counter(), own_cpu(), 0
    if arguments.until == "closed":
        running = asyncio.create_task(runner.run())
        await asyncio.to_thread(sys.stdin.readline)
        running.cancel()
    else:
        while True:
            moved = await runner.step()
            events += moved
            if not moved:
                if await is_done(runner, arguments.until):
                    break
                await asyncio.sleep(MIN_REST_S)
    await pool.close()
    return {"events": events, "seconds": time.perf_counter() - began, "cpu_s": own_cpu() - cpu}


if __name__ == "__main__":
    say(uvloop.run(main(options(part=int, of=int, until=str))))
