"""`threadfold serve`."""

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import click
import msgspec
import uvicorn
from litestar import Litestar
from litestar.status_codes import HTTP_503_SERVICE_UNAVAILABLE
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.cli.bootstrap import connected, explained, log_to_stderr, tune_garbage_collection
from api.cli.supervise import STOP_LIMIT_S, STOPS, ready_line, say, supervise
from api.cli.uvicorn_protocol import Protocol
from api.runtime.composition import Runtime
from api.runtime.process import Process
from api.runtime.stores import MEMORY
from domain.errors import ThreadfoldError
from infrastructure.settings import BadSetting, Settings, load_settings

GRACE = 3
"""Seconds that requests have to end. After that turns have some of their own; a rest goes on at the next start."""


STOPPING = {
    "type": "urn:threadfold:stopping",
    "title": "The server stops",
    "status": HTTP_503_SERVICE_UNAVAILABLE,
    "detail": "The server is stopping. What it has accepted goes on at its next start; look there, or ask again.",
}
"""The problem document for requests that are still waiting for something when the server's time is over."""


KEEP_ALIVE = 75
"""Seconds that a connection may be idle: more than clients let it, so that it never ends under a request."""

CONNECTIONS = 65_536
"""Files, which connections are to the system, that a server may have open, where the system lets it."""


class CannotListen(ThreadfoldError):
    """The address cannot be listened at."""


@click.command()
@click.option("--host", help="The address to listen on.  [default: HOST, or 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The port to listen on; 0 takes a free one.  [PORT, or 8000]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes to serve with. A parent replaces one that dies or is blocked, 1 as well.  [default: one, alone]",
)
@click.option("--access-log", is_flag=True, help="Log each request.")
@click.option("--listener", type=int, hidden=True, help="The descriptor of a socket that a parent listens at.")
@click.option("--lifeline", type=int, hidden=True, help="The descriptor of a socket that leads to the parent.")
def serve(
    *,
    host: str | None,
    port: int | None,
    workers: int | None,
    access_log: bool,
    listener: int | None,
    lifeline: int | None,
) -> None:
    """Serve the HTTP API, and run the agents' turns."""
    with explained():
        settings = load_settings()
        given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        settings = settings.model_copy(update=given)
        log_to_stderr(settings.log_level)
        _allow_connections()
        for chatty in ("uvicorn.error", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        if workers and workers > 1 and settings.database_url == MEMORY:
            raise BadSetting("DATABASE_URL=memory://: several processes cannot share memory. Leave --workers out.")
        with (
            _listening(settings.host, settings.port) if listener is None else socket.socket(fileno=listener) as socket_,
            suppress(asyncio.CancelledError),  # told to stop before it was ready
        ):
            if workers:
                process = Process(settings.lease_seconds, STOP_LIMIT_S)
                options = ["--access-log"] if access_log else []
                process.run(partial(supervise, process, settings, socket_, workers, options))
            else:
                process = Process(settings.lease_seconds, lifeline=lifeline)
                process.run(partial(_serve, process, settings, socket_, access_log=access_log))


def _allow_connections() -> None:
    """Take what the system allows: it often begins with 1,024, and drops the clients for whom that is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
    if resource.RLIM_INFINITY != soft < most:
        with suppress(ValueError, OSError):  # there may be another limit, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """A server that says when it is ready, and leaves signals to us."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tune_garbage_collection()
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn's own would end the process by the signal once requests are done: before the turns are


async def _serve(process: Process, settings: Settings, listener: socket.socket, *, access_log: bool) -> None:
    def opened(runtime: Runtime) -> None:
        process.begin(lambda: ", ".join(runtime.background.not_running()) or None)

    app = create_app(settings, opened)
    config = uvicorn.Config(
        _excusing(app),
        http=Protocol,
        ws="none",
        lifespan="off",  # entered here, so that what goes wrong in it can be told in one line
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )

    def ready() -> None:
        process.ready()
        if not process.has_parent:  # which says it for all
            click.echo(ready_line(settings, listener))

    server = _Server(config, ready)
    process.on_stop(_stopper(process, server, app))
    async with connected(settings, app.lifespan()):
        await server.serve(sockets=[listener])


def _excusing(app: ASGIApp) -> ASGIApp:
    """Answer 503 for a request that the end of the server cancels, such as one that waits for a long turn."""

    async def excused(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, noting)
        except asyncio.CancelledError:
            if begun:
                raise
            headers = [(b"content-type", b"application/problem+json"), (b"retry-after", b"5")]
            await send({"type": "http.response.start", "status": HTTP_503_SERVICE_UNAVAILABLE, "headers": headers})
            await send({"type": "http.response.body", "body": msgspec.json.encode(STOPPING), "more_body": False})

    return excused


def _stopper(process: Process, server: uvicorn.Server, app: Litestar) -> Callable[[], None]:
    """Return what makes the first signal a request to stop, and a second one an end of waiting for requests."""
    serving = asyncio.current_task()

    def stop() -> None:
        if not server.started and serving:
            serving.cancel()
        elif server.should_exit:
            server.force_exit = True
        else:
            if not process.has_parent:  # which says it for all
                say(STOPS)
            app.state.service.runtime.stopping.set()
            server.should_exit = True

    return stop


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port first of all, so that nothing is started in vain."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"Port {port} of {host} is in use. Stop what listens there, or choose another: --port or PORT."
        else:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            why = f"Cannot listen at port {port} of {host}: {reason}. Check --host and --port."
        raise CannotListen(why) from error
    with listener:
        yield listener
