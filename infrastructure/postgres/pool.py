"""Connections to PostgreSQL, as the application's role."""

import asyncio
import logging

import asyncpg

_log = logging.getLogger(__name__)

ROLE = "threadfold_app"
"""Made by the first migration. It may add to the log and cannot change it."""

CLOSING = 10.0
"""Seconds that statements have to end when a process ends."""

PATIENCE = 60
"""Seconds that a statement may take before it is cancelled."""


def dsn_of(url: str) -> str:
    """Take a URL as people write it for asyncpg or for SQLAlchemy and return it as asyncpg takes it."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


PLANNER = {"enable_hashjoin": "off", "enable_mergejoin": "off"}
"""Every statement of ours finds a few rows through an index. A planner that has no statistics yet, because the tables
have only begun to grow, would read whole tables instead, and a session keeps that plan."""

SESSION = {"role": ROLE, "application_name": "threadfold", "timezone": "UTC", **PLANNER}


async def connect(url: str) -> asyncpg.Connection:
    """Connect once, as `threadfold_app`: for what needs a connection of its own."""
    return await asyncpg.connect(dsn_of(url), server_settings=SESSION)


async def open_pool(url: str, *, max_size: int) -> asyncpg.Pool:
    """Connect as `threadfold_app`, with at most `max_size` connections. Raise asyncpg's error if there is none.

    The user in `url` must be a member of the role, as the one who migrated is.
    """
    return await asyncpg.create_pool(
        dsn_of(url),
        min_size=0,
        max_size=max_size,
        command_timeout=PATIENCE,
        reset=_keep_session,
        server_settings=SESSION,
    )


async def close_pool(pool: asyncpg.Pool, patience: float = CLOSING) -> None:
    """Let connections go, those that are still in use after so many seconds as well: nobody waits for them any more."""
    try:
        async with asyncio.timeout(patience):
            await pool.close()
    except TimeoutError:
        _log.warning("%d connections to PostgreSQL were in use after %g s: they are cut", pool.get_size(), patience)
        pool.terminate()


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Nobody changes a session's settings here, so each use of a connection is spared the round trip of a reset.

    asyncpg still rolls back a transaction that was left open.
    """


async def database_name(pool: asyncpg.Pool) -> str:
    """Name a database, so that several of a server can share what is not in them."""
    found: str = await pool.fetchval("SELECT current_database() || '/' || 'events'::regclass::oid")
    return found
