"""Connections to PostgreSQL, as the application's role."""

import asyncio
import logging

import asyncpg

from infrastructure.postgres.requirements import ROLE, check_pooler, check_server, is_pooled, not_a_member

_log = logging.getLogger(__name__)

CLOSE_LIMIT_S = 10.0
"""Seconds that running statements have to end when a process stops."""

STATEMENT_TIMEOUT_S = 60
"""Seconds after which a statement is cancelled."""


def dsn_of(url: str) -> str:
    """Convert a URL for asyncpg or SQLAlchemy to one for asyncpg."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


PLANNER = {"enable_hashjoin": "off", "enable_mergejoin": "off"}
"""Every statement of ours finds a few rows through an index. Without statistics, while the tables are still small, the
planner would read whole tables instead, and a session keeps that plan."""

STARTUP_PARAMETERS = {"application_name": "threadfold", "timezone": "UTC"}
"""Startup parameters. Poolers such as pgbouncer refuse most others, which are set after connecting."""

SETTINGS = {"standard_conforming_strings": "on", "default_transaction_isolation": "read committed", **PLANNER}
"""Settings that our statements rely on, whatever the defaults of the database or the role are."""

SCHEMAS = """
'public' || coalesce((SELECT ', ' || quote_ident(nspname)
                                    FROM pg_extension JOIN pg_namespace AS namespace ON namespace.oid = extnamespace
                                   WHERE extname = 'vector' AND nspname NOT IN ('public', 'pg_catalog')), '')
|| ', pg_temp'
"""
"""The search path of every session. The log is in `public`, whatever the path of the role or the database is."""

_SET_UP = ", ".join(
    f"set_config('{name}', {value}, false)"
    for name, value in (("search_path", SCHEMAS), *((name, f"'{value}'") for name, value in SETTINGS.items()))
)
OWNER = f"SELECT {_SET_UP}"
APPLICATION = f"SELECT {_SET_UP}, set_config('role', '{ROLE}', false)"


async def connect(url: str) -> asyncpg.Connection:
    """Open a dedicated connection as `threadfold_app`."""
    connection = await asyncpg.connect(dsn_of(url), server_settings=STARTUP_PARAMETERS)
    try:
        await _become_application(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def connect_as_owner(url: str) -> asyncpg.Connection:
    """Open a dedicated connection as the user in `url`, to migrate. Raises `UnfitDatabase`."""
    connection = await asyncpg.connect(dsn_of(url), server_settings=STARTUP_PARAMETERS)
    try:
        check_server(connection)
        if await is_pooled(connection):  # before any setting is changed, which other sessions would get
            other = await asyncpg.connect(dsn_of(url), server_settings=STARTUP_PARAMETERS)
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
    """Set up a session, in one round trip for each new connection. Raises `UnfitDatabase`."""
    try:
        await connection.execute(APPLICATION)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError) as error:
        login = await connection.fetchval("SELECT session_user")
        raise not_a_member(login, connection.get_server_version().major) from error


async def open_pool(url: str, *, max_size: int) -> asyncpg.Pool:
    """Open a pool of at most `max_size` connections as `threadfold_app`. Raises asyncpg's errors.

    The user in `url` must be a member of that role. The user who migrated is.
    """
    return await asyncpg.create_pool(
        dsn_of(url),
        min_size=0,
        max_size=max_size,
        command_timeout=STATEMENT_TIMEOUT_S,
        init=_become_application,
        reset=_keep_session,
        server_settings=STARTUP_PARAMETERS,
    )


async def close_pool(pool: asyncpg.Pool, patience: float = CLOSE_LIMIT_S) -> None:
    """Close all connections. Those in use after `patience` seconds are cut: no caller waits for them any more."""
    try:
        async with asyncio.timeout(patience):
            await pool.close()
    except TimeoutError:
        _log.warning("%d connections to PostgreSQL were in use after %g s and are cut", pool.get_size(), patience)
        pool.terminate()


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Do nothing: no code changes a session's settings, so a reset's round trip at each use is unnecessary.

    asyncpg still rolls back a transaction that was left open.
    """


async def database_name(pool: asyncpg.Pool) -> str:
    """Return a name that separates this database from others in what is shared outside of it, such as Redis."""
    found: str = await pool.fetchval("SELECT current_database() || '/' || 'events'::regclass::oid")
    return found
