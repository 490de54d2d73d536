"""Checks of a database and its sessions at every start, so that nothing fails later or silently.

Each error is one line that says what is wrong and what to do.
"""

import asyncio

import asyncpg

from domain.errors import ThreadfoldError

ROLE = "threadfold_app"
"""The application's role, created by the first migration. It may append to the log and cannot change it."""

MIN_SERVER_VERSION = 150_000
"""PostgreSQL 15, the oldest version that is tested. Older ones have reached their end of life."""

ENCODING = "UTF8"

POOLER_CHECKS = 5
"""Comparisons of two sessions that detect a pooler in transaction mode."""

PRIVILEGES = """
SELECT current_user AS login, current_database() AS name, current_setting('transaction_read_only') = 'on' AS read_only,
       to_regnamespace('public') IS NOT NULL AS has_schema,
       coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false) AS may_add_tables,
       has_database_privilege(current_database(), 'CREATE') AS may_add_schemas,
       (SELECT quote_ident(nspname)
          FROM pg_class JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
         WHERE relname = 'slices' AND nspname <> 'public'
           AND obj_description(pg_class.oid, 'pg_class') LIKE 'The last position that each slice gave out%'
         LIMIT 1) AS elsewhere
"""
"""The privileges of the user who migrates, and whether there is a log in another schema."""

SESSION = """
SELECT session_user AS login, current_user AS acting, pg_backend_pid() AS pid,
       rolsuper OR has_table_privilege(current_user, 'public.events', 'UPDATE, DELETE, TRUNCATE') AS may_change
  FROM pg_roles
 WHERE rolname = current_user AND to_regclass('public.events') IS NOT NULL
"""
"""The role of a session, and whether it could change the log."""

PID = "SELECT pg_backend_pid()"


class UnfitDatabase(ThreadfoldError):
    """The database is not set up for the log."""


def check_server(connection: asyncpg.Connection) -> None:
    """Check the server's version and the database's encoding, without a query. Raises `UnfitDatabase`."""
    settings, version = connection.get_settings(), connection.get_server_version()
    if version.major * 10_000 < MIN_SERVER_VERSION:
        raise UnfitDatabase(
            f"PostgreSQL {version.major}.{version.minor} is too old: Threadfold needs "
            f"{MIN_SERVER_VERSION // 10_000} or newer. Upgrade the server, or set another DATABASE_URL."
        )
    encoding = getattr(settings, "server_encoding", ENCODING)
    if encoding != ENCODING:
        raise UnfitDatabase(
            f"The database has the encoding {encoding}, which cannot hold every text: Threadfold needs {ENCODING}. "
            "Create another one: CREATE DATABASE threadfold ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C.UTF-8'."
        )


async def check_before_migrating(connection: asyncpg.Connection) -> None:
    """Check that a migration will not fail halfway or create a second log. Raises `UnfitDatabase`."""
    found = await connection.fetchrow(PRIVILEGES)
    login, name = found["login"], found["name"]
    if found["elsewhere"]:
        raise UnfitDatabase(
            f"There is a log in the schema {found['elsewhere']}, and Threadfold keeps it in public: move its tables "
            "and functions there with ALTER ... SET SCHEMA public, or set DATABASE_URL to another database."
        )
    if found["read_only"]:
        raise UnfitDatabase(
            f"The database {name} is read-only (it is a standby, or default_transaction_read_only is on), and needs a "
            "migration: set DATABASE_URL to the primary."
        )
    if not found["has_schema"]:
        raise UnfitDatabase(f'The database {name} has no schema public: CREATE SCHEMA public AUTHORIZATION "{login}".')
    if not found["may_add_tables"]:
        raise UnfitDatabase(
            f'The user {login} may not create tables, as migrations do: GRANT CREATE ON SCHEMA public TO "{login}".'
        )
    if not found["may_add_schemas"]:
        raise UnfitDatabase(
            f"The user {login} may not create schemas, as migrations do: "
            f'GRANT CREATE ON DATABASE "{name}" TO "{login}".'
        )


def not_a_member(login: str, server_version: int) -> UnfitDatabase:
    """Return the error for a user who is not a member of the application's role."""
    how = " WITH INHERIT TRUE, SET TRUE" if server_version >= 16 else ""  # noqa: PLR2004  (the syntax of PostgreSQL 16)
    return UnfitDatabase(
        f'The user {login} may not act as the role {ROLE}: as an administrator, GRANT {ROLE} TO "{login}"{how}.'
    )


async def check_sessions(pool: asyncpg.Pool) -> None:
    """Check that sessions have the application's role, which cannot change the log, and keep it.

    Raises `UnfitDatabase`.
    """
    async with pool.acquire() as connection:
        found = await connection.fetchrow(SESSION)
        if found is None:
            raise UnfitDatabase("The schema public has no table events: migrate first, `threadfold migrate`.")
        if found["acting"] != ROLE:
            raise UnfitDatabase(
                f"Sessions act as {found['acting']} and not as {ROLE}: a pooler in front of PostgreSQL drops their "
                "settings. Connect to PostgreSQL directly, or use pool_mode=session."
            )
        if found["may_change"]:
            raise UnfitDatabase(
                f"The role {ROLE} may change events, so the log would not be append-only: REVOKE UPDATE, DELETE, "
                f"TRUNCATE ON public.events FROM {ROLE}, and ALTER ROLE {ROLE} NOSUPERUSER."
            )
        if found["pid"] != connection.get_server_pid():
            async with pool.acquire() as other:
                await check_pooler(connection, other)


async def is_pooled(connection: asyncpg.Connection) -> bool:
    """Return whether there is a pooler, which reports its own process id. Raises `UnfitDatabase`."""
    try:
        return bool(await connection.fetchval(PID) != connection.get_server_pid())
    except NOT_PREPARED as error:
        raise _transaction_pooler() from error


async def check_pooler(one: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Refuse a pooler in transaction mode. Raises `UnfitDatabase`.

    It is detected if two sessions get the same server connection, or one session gets several.
    """
    try:
        pids = [(await one.fetchval(PID), await other.fetchval(PID)) for _ in range(POOLER_CHECKS)]
        at_once = [await asyncio.gather(one.fetchval(PID), other.fetchval(PID)) for _ in range(POOLER_CHECKS)]
    except NOT_PREPARED as error:
        raise _transaction_pooler() from error
    ones, others = ({pair[n] for pair in (*pids, *at_once)} for n in (0, 1))
    if len(ones) > 1 or len(others) > 1 or ones & others:
        raise _transaction_pooler()


NOT_PREPARED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""Errors of a statement that was prepared on another server connection."""


def _transaction_pooler() -> UnfitDatabase:
    return UnfitDatabase(
        "A pooler such as pgbouncer gives sessions another server connection for each transaction, with another role "
        "and other prepared statements: connect to PostgreSQL directly, or use pool_mode=session."
    )
