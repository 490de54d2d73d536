"""Several processes behind one socket, and a parent that starts, replaces and stops them."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from api.cli.bootstrap import connected, model_of, place_of
from api.cli.output import echo
from api.http.hosts import is_loopback
from api.runtime.output import Output
from api.runtime.process import Process
from api.runtime.projector import stdout_descriptor
from api.runtime.stores import MEMORY, database
from api.runtime.subprocesses import SILENT_LEASES, Subprocess
from api.runtime.watchdog import ONE_REQUEST_S
from domain.application.background_tasks import BackgroundTasks
from infrastructure.postgres.identity import has_keys
from infrastructure.settings import Settings
from migrations.run import migrate

STOP_LIMIT_S = 28.0
"""Seconds that the parent has to stop its children, and then the embedded server: less than the 30 seconds that
containers usually have."""

STOPS = "Threadfold stops when the running turns have ended, within some seconds."


def ready_line(settings: Settings, listener: socket.socket, *, has_keys: bool) -> str:
    """Return the line that says where the service is, and who may call it."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    access = access_of(settings, has_keys=has_keys)
    return f"Threadfold is ready at {url} - data in {place_of(settings)}; model: {model_of(settings)}; {access}"


def access_of(settings: Settings, *, has_keys: bool) -> str:
    """Describe who may call the service."""
    issuer = settings.oidc_issuer
    if settings.auth == "none" or (settings.auth == "auto" and not has_keys and issuer is None):
        callers = "this machine" if is_loopback(settings.host) else "every machine that reaches it"
        return f"open to {callers}, without keys"
    if issuer is not None:
        return f"callers need a key or a token of {issuer}" if has_keys else f"callers need a token of {issuer}"
    return "callers need a key" if has_keys else "closed: there is no key yet. Create one: threadfold keys create NAME"


def say(line: str) -> None:
    """Print a line to stderr, if it is still open."""
    with suppress(OSError):
        echo(line, err=True)


async def supervise(
    process: Process, settings: Settings, listener: socket.socket, count: int, options: Sequence[str]
) -> None:
    """Serve with several processes until a signal comes. The parent runs the embedded database, if it is used."""
    stopping, hurry, background = asyncio.Event(), asyncio.Event(), BackgroundTasks()
    clock, asked_at = asyncio.get_running_loop().time, float("inf")

    def stop() -> None:
        nonlocal asked_at
        asked_at = min(asked_at, clock())
        if clock() - asked_at > ONE_REQUEST_S:
            hurry.set()
        stopping.set()

    process.on_stop(stop)
    async with connected(settings, database(settings, background)) as found:
        if found.url != MEMORY:
            await migrate(found.url)
        output = Output(stdout_descriptor(), settings.lease_seconds / 2)
        children = [
            Subprocess(
                name=f"serve_{number}",
                arguments=["serve", "--listener", str(listener.fileno()), *options],
                environment={"DATABASE_URL": found.url},
                output=output,
                silence=SILENT_LEASES * settings.lease_seconds,
                descriptors=[listener.fileno()],
                hurry=hurry,
            )
            for number in range(1, count + 1)
        ]
        tasks = [background.start(child.name, child.run, was_well=child.was_well) for child in children]
        process.begin()
        telling = asyncio.create_task(_tell_when_ready(settings, found.url, listener, children, output), name="ready")
        await stopping.wait()
        say(STOPS)
        telling.cancel()
        await background.stop(*tasks)
        await asyncio.gather(telling, return_exceptions=True)
        await output.flush()


async def _tell_when_ready(
    settings: Settings, url: str, listener: socket.socket, children: Sequence[Subprocess], output: Output
) -> None:
    for child in children:
        await child.ready.wait()
    number = f"{len(children)} processes" if len(children) > 1 else "1 process and its parent"
    line = ready_line(settings, listener, has_keys=url != MEMORY and await has_keys(url))
    await output.write(f"{line}; {number}\n".encode())
