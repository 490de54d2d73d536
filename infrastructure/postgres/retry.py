"""Trying again, for a bounded time, what failed for a passing reason."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from domain.errors import CorruptLog, StoreUnavailable

T = TypeVar("T")

PAUSES = (0.02, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
"""Seconds before each new attempt: together long enough for a restart or a failover."""

DISCONNECTED = (
    OSError,  # includes TimeoutError
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # how asyncpg may say that the server ended a connection that was idle
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
)
"""The server went away. Whether it carried out the last statement before that is unknown."""

ROLLED_BACK = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""The server undid the statement and asks for another attempt."""

PASSING = (*DISCONNECTED, *ROLLED_BACK)


async def trying(pool: asyncpg.Pool, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run something that may be run twice until it passes. Raise `StoreUnavailable` when it never did."""
    for pause in PAUSES:
        try:
            return await attempt()
        except PASSING as error:
            if isinstance(error, ValueError):  # a value that does not fit: asyncpg's InterfaceError too
                raise
            if pool.is_closing():
                raise StoreUnavailable from error
            await asyncio.sleep(pause)
    try:
        return await attempt()
    except PASSING as error:
        raise StoreUnavailable from error


async def fetch(pool: asyncpg.Pool, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
    """Run a statement that may be run twice and return its rows.

    Raises `StoreUnavailable`, and `CorruptLog` for rows with a time that Threadfold cannot have written.
    """
    try:
        return await trying(pool, lambda: pool.fetch(statement, *arguments))
    except OverflowError as error:  # how asyncpg says that it cannot read a time
        raise CorruptLog("A time that is stored lies outside of the years 1 to 9999") from error
