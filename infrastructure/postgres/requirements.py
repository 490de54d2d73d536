"""What a database, and a session in it, must be like: checked at every start, so that nothing fails late or unseen.

Each complaint is one line that says what is wrong and what to do.
"""

import asyncio
from typing import Any, Protocol

import asyncpg

from domain.errors import ThreadfoldError

ROLE = "threadfold_app"
"""Made by the first migration. It may add to the log and cannot change it."""

OLDEST = 150_000
"""The oldest PostgreSQL that is tried: 15. Those before have reached their end of life."""

ENCODING = "UTF8"

ROUNDS = 5
"""How often two sessions are compared, to find a pooler that shares server connections between transactions."""

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
"""What a user who migrates may do, and whether there is a log in another schema."""

SESSION = """
SELECT session_user AS login, current_user AS acting, pg_backend_pid() AS pid,
       rolsuper OR has_table_privilege(current_user, 'public.events', 'UPDATE, DELETE, TRUNCATE') AS may_change
  FROM pg_roles
 WHERE rolname = current_user AND to_regclass('public.events') IS NOT NULL
"""
"""Who acts in a session, and whether it could change the log."""

PID = "SELECT pg_backend_pid()"


class UnfitDatabase(ThreadfoldError):
    """The database cannot keep the log as it is set up."""


class Pool(Protocol):
    """Gives connections."""

    def acquire(self) -> Any:
        """Return a context that yields a connection."""


def check_server(connection: asyncpg.Connection) -> None:
    """Refuse a server that is too old and a database without Unicode; costs nothing. Raises `UnfitDatabase`."""
    settings, version = connection.get_settings(), connection.get_server_version()
    if version.major * 10_000 < OLDEST:
        raise UnfitDatabase(
            f"PostgreSQL {version.major}.{version.minor} is too old: Threadfold needs {OLDEST // 10_000} or newer. "
            "Upgrade the server, or name another one in DATABASE_URL."
        )
    encoding = getattr(settings, "server_encoding", ENCODING)
    if encoding != ENCODING:
        raise UnfitDatabase(
            f"The database has the encoding {encoding}, which cannot hold every text: Threadfold needs {ENCODING}. "
            "Make another one: CREATE DATABASE threadfold ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C.UTF-8'."
        )


async def check_before_migrating(connection: asyncpg.Connection) -> None:
    """Refuse to migrate where that would fail halfway, or make a second log. Raises `UnfitDatabase`."""
    found = await connection.fetchrow(PRIVILEGES)
    login, name = found["login"], found["name"]
    if found["elsewhere"]:
        raise UnfitDatabase(
            f"There is a log in the schema {found['elsewhere']}, and Threadfold keeps it in public: move its tables "
            "and functions there with ALTER ... SET SCHEMA public, or name another database in DATABASE_URL."
        )
    if found["read_only"]:
        raise UnfitDatabase(
            f"The database {name} takes no writes (it is a standby, or default_transaction_read_only is on), and has "
            "to be migrated: name the primary in DATABASE_URL."
        )
    if not found["has_schema"]:
        raise UnfitDatabase(f'The database {name} has no schema public: CREATE SCHEMA public AUTHORIZATION "{login}".')
    if not found["may_add_tables"]:
        raise UnfitDatabase(
            f'The user {login} may not create tables, as migrating does: GRANT CREATE ON SCHEMA public TO "{login}".'
        )
    if not found["may_add_schemas"]:
        raise UnfitDatabase(
            f"The user {login} may not create schemas, as migrating does: "
            f'GRANT CREATE ON DATABASE "{name}" TO "{login}".'
        )


def not_a_member(login: str, server_version: int) -> UnfitDatabase:
    """Say that a user may not act as the application's role, and how it may."""
    how = " WITH INHERIT TRUE, SET TRUE" if server_version >= 16 else ""  # noqa: PLR2004  (as PostgreSQL 16 calls it)
    return UnfitDatabase(
        f'The user {login} may not act as the role {ROLE}: as an administrator, GRANT {ROLE} TO "{login}"{how}.'
    )


async def check_sessions(pool: Pool) -> None:
    """Check that sessions act as the application's role, which cannot change the log, and stay themselves.

    Raises `UnfitDatabase`.
    """
    async with pool.acquire() as connection:
        found = await connection.fetchrow(SESSION)
        if found is None:
            raise UnfitDatabase("The schema public has no table events: migrate first, `threadfold migrate`.")
        if found["acting"] != ROLE:
            raise UnfitDatabase(
                f"Sessions act as {found['acting']} and not as {ROLE}: something between here and PostgreSQL drops "
                "what they begin with. Connect to PostgreSQL directly, or use pool_mode=session."
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
    """Whether there is a pooler in between: it tells a process number of its own. Raises `UnfitDatabase`."""
    try:
        return bool(await connection.fetchval(PID) != connection.get_server_pid())
    except NOT_PREPARED as error:
        raise _unsteady() from error


async def check_pooler(one: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Refuse a pooler that gives a session another server connection for each transaction. Raises `UnfitDatabase`.

    Two sessions at a time that have one server connection, or one that has several, are proof.
    """
    try:
        pids = [(await one.fetchval(PID), await other.fetchval(PID)) for _ in range(ROUNDS)]
        at_once = [await asyncio.gather(one.fetchval(PID), other.fetchval(PID)) for _ in range(ROUNDS)]
    except NOT_PREPARED as error:
        raise _unsteady() from error
    ones, others = ({pair[n] for pair in (*pids, *at_once)} for n in (0, 1))
    if len(ones) > 1 or len(others) > 1 or ones & others:
        raise _unsteady()


NOT_PREPARED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
"""What a statement raises that was prepared on another server connection."""


def _unsteady() -> UnfitDatabase:
    return UnfitDatabase(
        "A pooler such as pgbouncer gives sessions another server connection for each transaction, and with it another "
        "role and other prepared statements: connect to PostgreSQL directly, or use pool_mode=session."
    )
