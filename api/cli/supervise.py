"""Several processes behind one socket: a parent that starts them, starts anew what dies, and stops them all."""

import asyncio
import signal
import socket
from collections.abc import Sequence

import click

from api.children import keep
from api.cli.running import connected, model_of, place_of
from api.stores import database
from infrastructure.settings import Settings
from migrations.run import migrate


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
        arguments = ["serve", "--listener", str(listener.fileno()), *options]
        children = [
            asyncio.create_task(keep(arguments, {"DATABASE_URL": found.url}, [listener.fileno()], ready.wait))
            for _ in range(count)
        ]
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
