"""Several processes behind one socket: a parent that starts them, starts anew what dies, and stops them all."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from api.cli.running import connected, model_of, place_of
from api.runtime import database
from infrastructure.settings import Settings
from migrations.run import migrate

PAUSE = 1.0
"""Seconds before a process that died is started anew."""

_log = logging.getLogger(__name__)


def ready_line(settings: Settings, listener: socket.socket) -> str:
    """Say where the service is."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"Threadfold is ready at {url} - data in {place_of(settings)}; model: {model_of(settings)}"


async def supervise(settings: Settings, listener: socket.socket, count: int, options: Sequence[str]) -> None:
    """Serve with several processes until a signal comes. The embedded database, if it is used, is the parent's."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with connected(settings, database(settings)) as found:
        await migrate(found.url)
        ready = asyncio.Barrier(count + 1)
        environment = {**os.environ, "DATABASE_URL": found.url}
        command = (sys.executable, "-m", "api", "serve", "--listener", str(listener.fileno()), *options)
        children = [asyncio.create_task(_keep(command, environment, listener.fileno(), ready)) for _ in range(count)]
        stopped = asyncio.create_task(stopping.wait())
        all_ready = asyncio.create_task(ready.wait())
        await asyncio.wait([stopped, all_ready], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            click.echo(f"{ready_line(settings, listener)}; {count} processes")
        await stopped
        click.echo("Threadfold stops as soon as what is running has ended, in some seconds at most.", err=True)
        for task in (*children, all_ready):
            task.cancel()
        await asyncio.gather(*children, all_ready, return_exceptions=True)


async def _keep(command: Sequence[str], environment: dict[str, str], descriptor: int, ready: asyncio.Barrier) -> None:
    """Run a process, and another one when it dies, until this is cancelled."""
    first = True
    while True:
        # In a session of its own, it does not hear the terminal's Ctrl-C: the parent passes on what is to be done.
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            pass_fds=(descriptor,),
            start_new_session=True,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            if process.stdout and await process.stdout.readline() and first:
                first = False
                await ready.wait()
            status = await process.wait()
            _log.error("A process ended with status %s, and is started anew", status)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.shield(process.wait())
        await asyncio.sleep(PAUSE)


@contextmanager
def stopped_with_parent(stop: Callable[[], None]) -> Iterator[None]:
    """Stop when the parent is gone: then nobody holds the other end of our standard input."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def look() -> None:
        if not os.read(stdin, 1):
            loop.remove_reader(stdin)
            stop()

    loop.add_reader(stdin, look)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
