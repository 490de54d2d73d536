"""`threadfold worker`."""

import asyncio
import logging
import signal

import click
import uvloop

from api.cli.running import connected, explained, log_to_stderr, place_of, settle
from api.runtime import MEMORY, open_runtime
from domain.errors import ThreadfoldError
from infrastructure.settings import Settings, load_settings


class NothingToShare(ThreadfoldError):
    """DATABASE_URL is memory://, which no other process can reach: `threadfold serve` runs the turns itself."""


@click.command()
def worker() -> None:
    """Run the agents' turns, without serving HTTP. As many as you like may run beside each other.

    SIGTERM hands over to the other workers what is still running after five seconds.
    """
    with explained(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settings = load_settings()
        if settings.database_url == MEMORY:
            raise NothingToShare
        log_to_stderr(settings.log_level)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        runner.run(_work(settings))


async def _work(settings: Settings) -> None:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with connected(settings, open_runtime(settings)) as runtime, runtime.working():
        settle()
        click.echo(f"Threadfold's worker {runtime.worker.name} is ready - data in {place_of(settings)}")
        await stopping.wait()
