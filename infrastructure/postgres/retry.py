"""Trying again, for a bounded time, what failed for a passing reason."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg

from domain.errors import CorruptLog, StoreUnavailable, ThreadfoldError
from infrastructure.postgres.failures import give_up_stale, is_about_the_request, is_passing, unavailable
from infrastructure.postgres.requirements import UnfitDatabase

T = TypeVar("T")

PAUSES = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
"""Seconds before each new attempt: together long enough for a restart or a failover."""

SLOW_S = 1.0
"""Seconds from which on an attempt is slow: a statement that ran into a time limit, say."""

PATIENCE_S = 8.0
"""Seconds after which no slow attempt is followed by another one."""

Expected: TypeAlias = tuple[type[Exception], ...]


async def trying(
    pool: asyncpg.Pool,
    attempt: Callable[[], Awaitable[T]],
    *,
    expecting: Expected = (),
    again: Callable[[Exception], bool] = is_passing,
    pauses: Sequence[float] | None = None,
) -> T:
    """Run something that may be run twice until it passes, after errors of which `again` says that they may pass.

    Before each new attempt there is a pause; by default, these are `PAUSES`.

    Raises errors about the request and those that the caller is `expecting` as they are; `StoreUnavailable` otherwise.
    """
    now, waits = asyncio.get_running_loop().time, iter(PAUSES if pauses is None else pauses)
    began = now()
    while True:
        begun = now()
        try:
            async with reaching(pool, expecting=expecting):
                return await attempt()
        except ThreadfoldError as error:
            pause, cause = next(waits, None), error.__cause__
            slow = now() - begun > SLOW_S and now() - began > PATIENCE_S
            if pause is None or slow or pool.is_closing() or not (isinstance(cause, Exception) and again(cause)):
                raise
        await asyncio.sleep(pause)


@asynccontextmanager
async def reaching(pool: asyncpg.Pool | None = None, *, expecting: Expected = ()) -> AsyncIterator[None]:
    """Tell errors about the request, which stay as they are, from `StoreUnavailable`, which all others become."""
    try:
        yield
    except UnfitDatabase as error:  # the database was fit when the process started, and may be so again
        raise StoreUnavailable(str(error)) from error
    except ThreadfoldError:
        raise
    except Exception as error:
        if isinstance(error, OverflowError) and not isinstance(error, expecting):  # asyncpg cannot read a time
            raise CorruptLog("A time that is stored lies outside of the years 1 to 9999") from error
        if isinstance(error, expecting) or is_about_the_request(error):
            raise
        await give_up_stale(pool, error)
        raise unavailable(error) from error


def fetch(
    pool: asyncpg.Pool, statement: str, *arguments: Any, expecting: Expected = ()
) -> Coroutine[Any, Any, Sequence[asyncpg.Record]]:
    """Run a statement that may be run twice and return its rows.

    Raises `StoreUnavailable`, and `CorruptLog` for rows with a time that Threadfold cannot have written.
    """
    return trying(pool, lambda: pool.fetch(statement, *arguments), expecting=expecting)
