"""Retrying, for a bounded time, what failed for a passing reason."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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

Expected: TypeAlias = tuple[type[Exception], ...]


class Attempts:
    """Attempts at something that may be run twice: `attempts = Attempts(pool)`, `while True: async with attempts: ...`.

    After an error for which `again` is true, the block ends without an error after a pause, so that the loop continues;
    by default the pauses are `RETRY_PAUSES_S`. The loop itself adds no frame between a statement and its caller.

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

    async def __aenter__(self) -> None:
        """Begin an attempt."""
        self._attempt_began = self._now()

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        """Pause before the next attempt, or raise the error that ends the loop."""
        if not isinstance(error, Exception):
            return False
        if isinstance(error, UnfitDatabase):  # the database was fit when the process started, and may be so again
            raise StoreUnavailable(str(error)) from error
        if isinstance(error, (ThreadfoldError, *self._expecting)) or is_about_the_request(error):
            return False
        await give_up_stale(self._pool, error)
        failure, pause, now = unavailable(error), next(self._pauses, None), self._now()
        slow = now - self._attempt_began > SLOW_ATTEMPT_S and now - self._began > RETRY_LIMIT_S
        if pause is None or slow or self._pool.is_closing() or not self._again(error):
            raise failure from error
        await asyncio.sleep(pause)
        return True


def reaching(pool: asyncpg.Pool, *, expecting: Expected = ()) -> Attempts:
    """Return a single attempt: it raises what `Attempts` raises. The pool may be None, if the caller has none."""
    return Attempts(pool, expecting=expecting, pauses=())


class Store:
    """What stores have in common: a pool of connections, which the caller closes, and statements that are retried."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def _fetch(
        self, statement: str, *arguments: Any, expecting: Expected = (), pauses: Sequence[float] | None = None
    ) -> Sequence[asyncpg.Record]:
        """Run a statement that may be run twice and return its rows.

        Raises `StoreUnavailable`, and `CorruptLog` for rows with a time that Threadfold cannot have written.
        """
        attempts = Attempts(self._pool, expecting=expecting, pauses=pauses)
        try:
            while True:
                async with attempts:
                    rows: Sequence[asyncpg.Record] = await self._pool.fetch(statement, *arguments)
                    return rows
        except OverflowError as error:  # asyncpg raises it for a time that it cannot read
            raise CorruptLog("A stored time lies outside of the years 1 to 9999") from error
