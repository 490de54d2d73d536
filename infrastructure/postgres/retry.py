"""Retrying, for a bounded time, what failed for a passing reason."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

import asyncpg

from domain.errors import CorruptLog, StoreUnavailable, ThreadfoldError
from infrastructure.postgres.failures import give_up_stale, is_about_the_request, is_passing, unavailable
from infrastructure.postgres.requirements import UnfitDatabase

RETRY_PAUSES_S = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
"""Seconds before each retry: together long enough for a restart or a failover."""

SLOW_ATTEMPT_S = 1.0
"""Seconds from which on an attempt is slow: a statement that ran into a time limit, for example."""

RETRY_LIMIT_S = 8.0
"""Seconds after which a slow attempt is not followed by another one."""

ENDLESS = "Attempts end with an answer or an error"

Expected: TypeAlias = tuple[type[Exception], ...]


class Attempts:
    """Attempts at something that may be run twice: `for attempt in Attempts(pool): async with attempt: return ...`.

    After an error for which `again` is true, the loop pauses and continues; by default the pauses are `RETRY_PAUSES_S`.
    The loop itself adds no frame between a statement and its caller.

    Raises errors about the request, and those that the caller is `expecting`, unchanged; `StoreUnavailable` for others.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        expecting: Expected = (),
        again: Callable[[Exception], bool] = is_passing,
        pauses: Sequence[float] | None = None,
    ) -> None:
        self._pool = pool
        self._expecting = expecting
        self._again = again
        self._pauses = iter(RETRY_PAUSES_S if pauses is None else pauses)
        self._now = asyncio.get_running_loop().time
        self._began = self._attempt_began = self._now()

    def __iter__(self) -> Self:
        """Return itself: each pass of the loop is another attempt."""
        return self

    def __next__(self) -> Self:
        """Return itself: an attempt that fails for good ends the loop by its error."""
        return self

    async def __aenter__(self) -> None:
        """Begin an attempt."""
        self._attempt_began = self._now()

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        """Pause before the next attempt, or raise the error that ends the loop."""
        if not isinstance(error, Exception):
            return False
        failure = await _translated(self._pool, error, self._expecting)
        pause = self._pause_after(failure) if isinstance(failure, ThreadfoldError) else None
        if pause is not None:
            await asyncio.sleep(pause)
            return True
        if failure is not error:
            raise failure
        return False

    def _pause_after(self, failure: ThreadfoldError) -> float | None:
        """Return the seconds before the next attempt; None if there is to be none."""
        pause, cause, now = next(self._pauses, None), failure.__cause__, self._now()
        slow = now - self._attempt_began > SLOW_ATTEMPT_S and now - self._began > RETRY_LIMIT_S
        give_up = slow or self._pool.is_closing() or not (isinstance(cause, Exception) and self._again(cause))
        return None if give_up else pause


@asynccontextmanager
async def reaching(pool: asyncpg.Pool | None = None, *, expecting: Expected = ()) -> AsyncIterator[None]:
    """Raise errors about the request, and those that the caller expects, unchanged; `StoreUnavailable` for others."""
    try:
        yield
    except Exception as error:
        failure = await _translated(pool, error, expecting)
        if failure is error:
            raise
        raise failure from error


async def _translated(pool: asyncpg.Pool | None, error: Exception, expecting: Expected) -> Exception:
    """Return an error as callers of an adapter get it, with the original as its cause if it is another one."""
    failure: Exception
    if isinstance(error, UnfitDatabase):  # the database was fit when the process started, and may be so again
        failure = StoreUnavailable(str(error))
    elif isinstance(error, (ThreadfoldError, *expecting)) or is_about_the_request(error):
        return error
    else:
        await give_up_stale(pool, error)
        failure = unavailable(error)
    failure.__cause__ = error
    return failure


async def fetch(
    pool: asyncpg.Pool,
    statement: str,
    *arguments: Any,
    expecting: Expected = (),
    pauses: Sequence[float] | None = None,
) -> Sequence[asyncpg.Record]:
    """Run a statement that may be run twice and return its rows.

    Raises `StoreUnavailable`, and `CorruptLog` for rows with a time that Threadfold cannot have written.
    """
    try:
        for attempt in Attempts(pool, expecting=expecting, pauses=pauses):
            async with attempt:
                rows: Sequence[asyncpg.Record] = await pool.fetch(statement, *arguments)
                return rows
    except OverflowError as error:  # asyncpg raises it for a time that it cannot read
        raise CorruptLog("A stored time lies outside of the years 1 to 9999") from error
    raise AssertionError(ENDLESS)
