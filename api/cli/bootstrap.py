"""Running a command: its settings, its log output, its event loop, and the message if it fails."""

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

from api.cli.output import show_json
from api.cli.visible import visible
from api.http.caller import Caller, printable
from api.runtime.composition import open_runtime
from api.runtime.stores import MEMORY
from api.services.threads import Service
from domain.errors import ThreadfoldError, UnknownThread
from domain.identity.principal import Principal
from domain.identity.scopes import SCOPES
from domain.ids import Tenant
from infrastructure.settings import BadSetting, Settings, load_settings

T = TypeVar("T")

EXIT_PROBLEM = 1
"""The exit status of a command that found a problem or failed."""

DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What connecting to a database raises if there is none, or if it refuses."""

CLIENT = "threadfold"
"""The client's name in the log and in the access log."""

MAX_NAME_CHARACTERS = 255
"""Characters of a user's name that are recorded."""

MAX_LINE_CHARACTERS = 1_000
"""Characters of a command line that are recorded."""


class Unreachable(ThreadfoldError):
    """The database cannot be used."""


class NothingKept(ThreadfoldError):
    """DATABASE_URL is memory://, which keeps nothing between processes, so this command has nothing to work on."""


def tune_garbage_collection() -> None:
    """Exclude what is loaded so far from garbage collections: scanning it takes a tenth of a second.

    Also collect less often: states and events form no cycles, so a collection finds hardly anything.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _BadUse(click.ClickException):
    exit_code = click.UsageError.exit_code


class _OneLine(logging.Formatter):
    """Times in UTC, tracebacks only if wanted, and nothing in it that a terminal obeys."""

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(asctime)s UTC %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        self.converter = time.gmtime
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        return super().formatException(ei) if self._tracebacks else ""  # type: ignore[arg-type]


def log_to_stderr(level: str, *, tracebacks: bool = True) -> None:
    """Write log messages of a level and above to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine(tracebacks=tracebacks))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each request to the model


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of ours into one line on stderr and an exit status: 2 for a bad setting, 1 for the others."""
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
    """Raise `Unreachable` with the driver's message if the database cannot be used."""
    try:
        yield
    except Exception as error:
        cause = error
        while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:  # such as Litestar's lifespan raises
            cause = cause.exceptions[0]
        sqlalchemy = sys.modules.get("sqlalchemy.exc")  # importing it here would take 0.2 s; only migrations use it
        if not isinstance(cause, DRIVER_ERRORS if sqlalchemy is None else (*DRIVER_ERRORS, sqlalchemy.SQLAlchemyError)):
            raise cause from error.__cause__
        advice = ". Check DATABASE_URL." if settings.database_url else ""
        raise Unreachable(f"{place_of(settings)} cannot be used: {cause or type(cause).__name__}{advice}") from error


@asynccontextmanager
async def connected(settings: Settings, runtime: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter a context that connects to the database. Raises `Unreachable`."""
    async with AsyncExitStack() as stack:
        with connecting(settings):
            entered = await stack.enter_async_context(runtime)
        yield entered


def ask(query: Callable[[Service], Awaitable[T]]) -> T:
    """Run a query on the stored data."""

    async def asked(settings: Settings) -> T:
        async with connected(settings, open_runtime(settings)) as runtime:
            return await query(Service(runtime))

    with explained():
        return asyncio.run(asked(settings_of_stored_data()))


def answer(query: Callable[[Service], Awaitable[T]], show: Callable[[T], None], *, as_json: bool) -> T:
    """Run a query on the stored data, and print its result: as JSON, or by `show`."""
    found = ask(query)
    if as_json:
        show_json(found)
    else:
        show(found)
    return found


def settings_of_stored_data() -> Settings:
    """Read the settings of a command that works on stored data. Raises `NothingKept` if there are none."""
    settings = load_settings()
    log_to_stderr("warning")
    if settings.database_url == MEMORY:
        raise NothingKept
    return settings


def here() -> Caller:
    """Return the caller that this command line is: the system's user, if it has a name."""
    try:
        user = printable(getpass.getuser(), MAX_NAME_CHARACTERS) or None
    except (KeyError, ImportError, OSError):  # no name is set, and the user id has none
        user = None
    return Caller(
        actor=user, client=CLIENT, request=printable(shlex.join([CLIENT, *sys.argv[1:]]), MAX_LINE_CHARACTERS)
    )


def operator() -> Principal:
    """Return the principal that this command line is: who may run it can read the database, and so may do everything.

    It belongs to no tenant, so that it can manage each of them.
    """
    return Principal(Tenant(""), here().actor, SCOPES)


def place_of(settings: Settings) -> str:
    """Describe where data is kept, without a password."""
    if settings.database_url is None:
        return f"{settings.data_dir} (embedded PostgreSQL)"
    if settings.database_url == MEMORY:
        return "memory only, lost when this process ends"
    url = urlsplit(settings.database_url)
    address = url.netloc.rpartition("@")[2] or parse_qs(url.query).get("host", ["localhost"])[0]
    return f"PostgreSQL at {address}{url.path}"


def model_of(settings: Settings) -> str:
    """Describe which model answers, without a key."""
    if settings.models is not None:
        return f"as {settings.models} says"
    if settings.llm_endpoint is None:
        return "offline"
    url = urlsplit(settings.llm_endpoint)
    endpoint = url._replace(netloc=url.netloc.rpartition("@")[2], query="").geturl()
    return f"{settings.llm_model} at {endpoint}"
