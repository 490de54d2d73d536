"""`threadfold worker`."""

import asyncio
import logging
from functools import partial
from uuid import UUID

import click

from api.cli.bootstrap import connected, explained, log_to_stderr, place_of, tune_garbage_collection
from api.cli.output import echo
from api.runtime.composition import open_runtime
from api.runtime.process import Process, die_with_parent
from api.runtime.projector import Held
from api.runtime.stores import MEMORY
from api.services.missing_nodes import reporting_missing
from domain.application.turns.worker import Worker
from domain.errors import ThreadfoldError
from domain.ids import Shard, ThreadId, Version, WorkerId
from domain.ports.log import Fence
from infrastructure.memory.borrowed_lease import BorrowedLease
from infrastructure.settings import Settings, load_settings


class NothingToShare(ThreadfoldError):
    """DATABASE_URL is memory://, which other processes cannot reach: `threadfold serve` runs the turns itself."""


def _fence(text: str) -> Fence:
    shard, _, epoch = text.partition(":")
    return Fence(Shard(int(shard)), int(epoch))


@click.command()
@click.option("--projecting", type=click.UUID, hidden=True, help="Only run the projections of this worker's shards.")
@click.option("--alone", type=click.UUID, hidden=True, help="Only run the turn of this thread, and exit with it.")
@click.option("--fence", "lease", type=_fence, hidden=True, help="The lease of another worker for that: shard:epoch.")
@click.option("--convicted", type=int, hidden=True, help="Fail that turn if it began at this version or before.")
@click.option("--lifeline", type=int, hidden=True, help="The descriptor of a socket to the parent.")
def worker(
    *, projecting: UUID | None, alone: UUID | None, lease: Fence | None, convicted: int | None, lifeline: int | None
) -> None:
    """Run the agents' turns, without serving HTTP. Any number of workers may share a database.

    After SIGTERM, turns that still run after five seconds are handed over to other workers.
    """
    with explained():
        settings = load_settings()
        if settings.database_url == MEMORY:
            raise NothingToShare
        log_to_stderr(settings.log_level)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        process = Process(settings.lease_seconds, lifeline=lifeline)
        if projecting is not None:
            process.run(partial(_project, process, settings, WorkerId(projecting)))
        elif alone is not None and lease is not None:
            die_with_parent()
            process.run(partial(_run_alone, process, settings, ThreadId(alone), lease, convicted=convicted))
        else:
            process.run(partial(_work, process, settings))


async def _project(process: Process, settings: Settings, worker: WorkerId) -> None:
    stopping = asyncio.Event()
    process.on_stop(stopping.set)
    async with connected(settings, open_runtime(settings)) as runtime:
        process.begin(lambda: ", ".join(runtime.background.not_running()) or None)
        held = Held(runtime.worker.leases, worker, runtime.background)
        runtime.runner.held = lambda: held.slices
        async with held.watched(), runtime.projecting_here():
            tune_garbage_collection()
            process.ready()
            await stopping.wait()


async def _run_alone(
    process: Process, settings: Settings, thread_id: ThreadId, fence: Fence, *, convicted: int | None
) -> None:
    stopping, upto = asyncio.Event(), None if convicted is None else Version(convicted)
    process.on_stop(stopping.set)
    async with connected(settings, open_runtime(settings)) as runtime:
        process.ready()
        process.begin()
        lease, own = BorrowedLease(fence), runtime.worker
        alone = Worker(
            *(runtime.turns, lease, own.wakeups, lease, lease, own.id, own.name, settings.lease_seconds),
            background=runtime.background,
        )
        async with runtime.counting():
            await alone.run_alone(thread_id, stopping, convicted=upto)


async def _work(process: Process, settings: Settings) -> None:
    stopping = asyncio.Event()
    process.on_stop(stopping.set)
    async with connected(settings, open_runtime(settings)) as runtime:
        process.begin()
        async with runtime.working(), reporting_missing(runtime):
            tune_garbage_collection()
            process.ready()
            echo(f"Threadfold's worker {runtime.worker.name} is ready - data in {place_of(settings)}")
            await stopping.wait()
