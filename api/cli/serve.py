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
from api.cli.output import echo
from api.cli.supervise import STOP_LIMIT_S, STOPS, ready_line, say, supervise
from api.cli.uvicorn_protocol import Protocol, max_connections, sweeping
from api.runtime.composition import Runtime
from api.runtime.process import Process
from api.runtime.stores import MEMORY
from domain.errors import ThreadfoldError
from infrastructure.settings import BadSetting, Settings, load_settings

REQUESTS_GRACE_S = 3
"""Seconds that requests have to end. Turns have some more; those that still run then continue at the next start."""


STOPPING = {
    "type": "urn:threadfold:stopping",
    "title": "The server stops",
    "status": HTTP_503_SERVICE_UNAVAILABLE,
    "detail": "The server is stopping. It continues accepted turns at its next start; read the thread then, or retry.",
}
"""The problem document for requests that still wait when the server's time to stop is over."""


KEEP_ALIVE_S = 75
"""Seconds that a connection may be idle: longer than clients allow, so that none ends while a request is sent."""

MAX_OPEN_FILES = 65_536
"""File descriptors that a server asks for: each connection takes one."""


class CannotListen(ThreadfoldError):
    """The server cannot listen at the address."""


@click.command()
@click.option("--host", help="The address to listen on.  [default: HOST, or 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The port to listen on; 0 takes a free one.  [PORT, or 8000]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Processes to serve with. A parent replaces one that dies or blocks, also of 1.  [default: one, no parent]",
)
@click.option("--access-log", is_flag=True, help="Log each request.")
@click.option("--listener", type=int, hidden=True, help="The descriptor of the parent's listening socket.")
@click.option("--lifeline", type=int, hidden=True, help="The descriptor of a socket to the parent.")
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
        _raise_open_files()
        for chatty in ("uvicorn.error", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        if workers and workers > 1 and settings.database_url == MEMORY:
            raise BadSetting("DATABASE_URL=memory://: several processes cannot share memory. Omit --workers.")
        with (
            _listening(settings.host, settings.port) if listener is None else socket.socket(fileno=listener) as socket_,
            suppress(asyncio.CancelledError),  # a signal came before it was ready
        ):
            if workers:
                process = Process(settings.lease_seconds, STOP_LIMIT_S)
                options = ["--access-log"] if access_log else []
                process.run(partial(supervise, process, settings, socket_, workers, options))
            else:
                process = Process(settings.lease_seconds, lifeline=lifeline)
                process.run(partial(_serve, process, settings, socket_, access_log=access_log))


def _raise_open_files() -> None:
    """Raise the limit of open files as far as allowed: often it is 1,024, and clients beyond that are dropped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if resource.RLIM_INFINITY != soft < most:
        with suppress(ValueError, OSError):  # another limit applies, as on macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Server(uvicorn.Server):
    """A server that calls back when it is ready, and does not handle signals."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tune_garbage_collection()
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would end the process by the signal after its requests, before its turns


async def _serve(process: Process, settings: Settings, listener: socket.socket, *, access_log: bool) -> None:
    def opened(runtime: Runtime) -> None:
        process.begin(lambda: ", ".join(runtime.background.not_running()) or None)

    app = create_app(settings, opened)
    config = uvicorn.Config(
        _answering_503_when_cancelled(app),
        http=Protocol,
        ws="none",
        lifespan="off",  # entered here, so that its errors are shown in one line
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=REQUESTS_GRACE_S,
    )

    def ready() -> None:
        process.ready()
        if not process.has_parent:  # which prints it for all
            echo(ready_line(settings, listener, has_keys=app.state.authenticator.has_keys))

    server = _Server(config, ready)
    process.on_stop(_stopper(process, server, app))
    Protocol.most = max_connections()
    with sweeping(asyncio.get_running_loop(), server.server_state.connections):
        async with connected(settings, app.lifespan()):
            await server.serve(sockets=[listener])


def _answering_503_when_cancelled(app: ASGIApp) -> ASGIApp:
    """Answer 503 to a request that the stop of the server cancels, such as one that waits for a long turn."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
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

    return answered


def _stopper(process: Process, server: uvicorn.Server, app: Litestar) -> Callable[[], None]:
    """Return the handler of signals: the first one stops the server, the second one ends its wait for requests."""
    serving = asyncio.current_task()

    def stop() -> None:
        if not server.started and serving:
            serving.cancel()
        elif server.should_exit:
            server.force_exit = True
        else:
            if not process.has_parent:  # which prints it for all
                say(STOPS)
            app.state.service.runtime.stop_waiting()
            server.should_exit = True

    return stop


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen at the port before anything else starts."""
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
