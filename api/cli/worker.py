"""`threadfold worker`."""

import asyncio
import logging
import signal
from uuid import UUID

import click
import uvloop

from api.children import stopped_with_parent
from api.cli.running import connected, explained, log_to_stderr, place_of, settle
from api.projector import Held
from api.runtime import open_runtime
from api.stores import MEMORY
from domain.errors import ThreadfoldError
from domain.ids import WorkerId
from infrastructure.settings import Settings, load_settings


class NothingToShare(ThreadfoldError):
    """DATABASE_URL is memory://, which no other process can reach: `threadfold serve` runs the turns itself."""


@click.command()
@click.option("--projecting", type=click.UUID, hidden=True, help="Only run the projections of this worker's shards.")
def worker(projecting: UUID | None) -> None:
    """Run the agents' turns, without serving HTTP. As many as you like may run beside each other.

    SIGTERM hands over to the other workers what is still running after five seconds.
    """
    with explained(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settings = load_settings()
        if settings.database_url == MEMORY:
            raise NothingToShare
        log_to_stderr(settings.log_level)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        runner.run(_work(settings) if projecting is None else _project(settings, WorkerId(projecting)))


async def _project(settings: Settings, worker: WorkerId) -> None:
    stopping = _told_to_stop()
    async with connected(settings, open_runtime(settings)) as runtime:
        held = Held(runtime.worker.leases, worker)
        runtime.runner.held = held.slices
        async with held.watched(), runtime.projecting_here():
            settle()
            click.echo("ready")
            with stopped_with_parent(stopping.set):
                await stopping.wait()


def _told_to_stop() -> asyncio.Event:
    """Return what is set once a signal asks to stop."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _work(settings: Settings) -> None:
    stopping = _told_to_stop()
    async with connected(settings, open_runtime(settings)) as runtime, runtime.working():
        settle()
        click.echo(f"Threadfold's worker {runtime.worker.name} is ready - data in {place_of(settings)}")
        await stopping.wait()
