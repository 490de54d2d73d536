"""Connections to PostgreSQL, as the application's role."""

import asyncio
import logging

import asyncpg

from infrastructure.postgres.requirements import ROLE, check_pooler, check_server, is_pooled, not_a_member

_log = logging.getLogger(__name__)

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

BEGUN_WITH = {"application_name": "threadfold", "timezone": "UTC"}
"""What a connection begins with. Poolers such as pgbouncer refuse most other parameters: those are set next."""

SETTINGS = {"standard_conforming_strings": "on", "default_transaction_isolation": "read committed", **PLANNER}
"""What our statements are written for, however a database or a role is set up."""

SCHEMAS = """
'public' || coalesce((SELECT ', ' || quote_ident(nspname)
                                    FROM pg_extension JOIN pg_namespace AS namespace ON namespace.oid = extnamespace
                                   WHERE extname = 'vector' AND nspname NOT IN ('public', 'pg_catalog')), '')
|| ', pg_temp'
"""
"""The search path of every session. The log is in `public`, whatever a role's or a database's own path says."""

_SET_UP = ", ".join(
    f"set_config('{name}', {value}, false)"
    for name, value in (("search_path", SCHEMAS), *((name, f"'{value}'") for name, value in SETTINGS.items()))
)
OWNER = f"SELECT {_SET_UP}"
APPLICATION = f"SELECT {_SET_UP}, set_config('role', '{ROLE}', false)"


async def connect(url: str) -> asyncpg.Connection:
    """Connect once, as `threadfold_app`: for what needs a connection of its own."""
    connection = await asyncpg.connect(dsn_of(url), server_settings=BEGUN_WITH)
    try:
        await _become_application(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def connect_as_owner(url: str) -> asyncpg.Connection:
    """Connect once as the user in `url`, to migrate. Raises `UnfitDatabase`."""
    connection = await asyncpg.connect(dsn_of(url), server_settings=BEGUN_WITH)
    try:
        check_server(connection)
        if await is_pooled(connection):  # before anything is set, which others would find set
            other = await asyncpg.connect(dsn_of(url), server_settings=BEGUN_WITH)
            try:
                await check_pooler(connection, other)
            finally:
                await other.close()
        await connection.execute(OWNER)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _become_application(connection: asyncpg.Connection) -> None:
    """Set a session up. One round trip for each new connection. Raises `UnfitDatabase`."""
    try:
        await connection.execute(APPLICATION)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
        login = await connection.fetchval("SELECT session_user")
        raise not_a_member(login, connection.get_server_version().major) from error


async def open_pool(url: str, *, max_size: int) -> asyncpg.Pool:
    """Connect as `threadfold_app`, with at most `max_size` connections. Raise asyncpg's error if there is none.

    The user in `url` must be a member of the role, as the one who migrated is.
    """
    return await asyncpg.create_pool(
        dsn_of(url),
        min_size=0,
        max_size=max_size,
        command_timeout=PATIENCE,
        init=_become_application,
        reset=_keep_session,
        server_settings=BEGUN_WITH,
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
