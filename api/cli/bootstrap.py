"""Carrying out a command: its settings, its log, its event loop, and what is said when it cannot be done."""

import asyncio
import gc
import getpass
import logging
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
import click
from sqlalchemy.exc import SQLAlchemyError

from api.http.caller import Caller, printable
from api.runtime.composition import open_runtime
from api.runtime.stores import MEMORY
from api.services.threads import Service
from domain.errors import ThreadfoldError, UnknownThread
from infrastructure.settings import BadSetting, Settings, load_settings

T = TypeVar("T")

PROBLEM = 1
"""The exit status of a command that found a problem, or could not be carried out."""

DRIVERS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError)
"""What the ways to a database raise when there is none, or when it refuses."""

CLIENT = "threadfold"
"""What the command line is called where programs are named."""

NAME = 255
"""Characters that are kept of a user's name."""

LINE = 1_000
"""Characters that are kept of a command line."""


class Unreachable(ThreadfoldError):
    """The database cannot be used."""


class NothingKept(ThreadfoldError):
    """DATABASE_URL is memory://, where nothing is kept between processes: there is nothing here for this command."""


def settle() -> None:
    """Leave what is loaded by now out of every garbage collection: to look through it takes a tenth of a second.

    And look for cycles less often: states and events are in none, so hardly anything is found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _BadUse(click.ClickException):
    exit_code = click.UsageError.exit_code


class _OneLine(logging.Formatter):
    """Times in UTC; and where somebody is talking, no tracebacks."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(asctime)s UTC %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        self.converter = time.gmtime
        self._tracebacks = tracebacks

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        return super().formatException(ei) if self._tracebacks else ""  # type: ignore[arg-type]


def log_to_stderr(level: str, *, tracebacks: bool = True) -> None:
    """Send the log to stderr, from a level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(tracebacks=tracebacks))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell each request to the model


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line on stderr what went wrong, and exit by it: 2 for a setting, 1 for everything else."""
    try:
        yield
    except UnknownThread as error:
        words = f"There is no thread {error.thread_id}. `threadfold threads list` shows them."
        raise click.ClickException(words) from error
    except ThreadfoldError as error:
        failure = _BadUse if isinstance(error, BadSetting) else click.ClickException
        raise failure(" ".join(str(error).split())) from error


@contextmanager
def connecting(settings: Settings) -> Iterator[None]:
    """Raise `Unreachable`, with the driver's words, where a database refuses to be used."""
    try:
        yield
    except Exception as error:
        cause = _alone(error)
        if not isinstance(cause, DRIVERS):
            raise cause from error.__cause__
        advice = ". Check DATABASE_URL." if settings.database_url else ""
        raise Unreachable(f"{place_of(settings)} cannot be used: {cause or type(cause).__name__}{advice}") from error


def _alone(error: Exception) -> Exception:
    """Take an error out of the task groups around it, such as Litestar's lifespan has."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def connected(settings: Settings, runtime: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter what connects to the database. Raises `Unreachable`."""
    async with AsyncExitStack() as stack:
        with connecting(settings):
            entered = await stack.enter_async_context(runtime)
        yield entered


def ask(query: Callable[[Service], Awaitable[T]]) -> T:
    """Answer a query about what is stored."""
    with explained():
        settings = load_settings()
        log_to_stderr("warning")
        if settings.database_url == MEMORY:
            raise NothingKept
        return asyncio.run(_ask(settings, query))


async def _ask(settings: Settings, query: Callable[[Service], Awaitable[T]]) -> T:
    async with connected(settings, open_runtime(settings)) as runtime:
        return await query(Service(runtime))


def here() -> Caller:
    """Say who uses this command line: the system's user, if it knows one."""
    try:
        user = printable(getpass.getuser(), NAME) or None
    except (KeyError, ImportError, OSError):  # no name is set, and the user's number has none
        user = None
    return Caller(actor=user, client=CLIENT, request=printable(shlex.join([CLIENT, *sys.argv[1:]]), LINE))


def place_of(settings: Settings) -> str:
    """Say where data is kept; no password is in it."""
    if settings.database_url is None:
        return f"{settings.data_dir} (embedded PostgreSQL)"
    if settings.database_url == MEMORY:
        return "memory only, lost when this process ends"
    url = urlsplit(settings.database_url)
    address = url.netloc.rpartition("@")[2] or parse_qs(url.query).get("host", ["localhost"])[0]
    return f"PostgreSQL at {address}{url.path}"


def model_of(settings: Settings) -> str:
    """Say which model answers, or what says so; no key is in it."""
    if settings.models is not None:
        return f"as {settings.models} says"
    if settings.llm_endpoint is None:
        return "offline"
    url = urlsplit(settings.llm_endpoint)
    endpoint = url._replace(netloc=url.netloc.rpartition("@")[2], query="").geturl()
    return f"{settings.llm_model} at {endpoint}"
