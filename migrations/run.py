"""Bring a database to the newest schema, or say where it stands. Alembic without a configuration file."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

HEAD = "head"
_LOCK = 0x7468_7265_6164  # "thread"


async def migrate(url: str) -> str:
    """Apply every migration that `url` lacks, in one transaction, and return the revision it is at then.

    Processes that migrate at once wait for each other: the lock is held until the transaction ends.
    """
    async with _connected(url) as connection, connection.begin():
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        await connection.run_sync(_upgrade)
        return await connection.run_sync(_revision) or ""


async def current(url: str) -> str | None:
    """Return the revision that the database is at, or None if it was never migrated."""
    async with _connected(url) as connection:
        return await connection.run_sync(_revision)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AsyncConnection]:
    """Connect as the pool does, so that every URL that asyncpg takes (sockets, TLS) works here too."""
    dsn = url.replace("postgresql+asyncpg://", "postgresql://", 1)

    async def connect() -> Any:
        return await asyncpg.connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, HEAD)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(migrate(sys.argv[1])) + "\n")
