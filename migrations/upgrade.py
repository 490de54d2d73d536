"""Applying migrations with Alembic, without a configuration file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from infrastructure.postgres.pool import connect_as_owner

_LOCK = 0x7468_7265_6164  # "thread"


async def upgrade(dsn: str, to: str = "head") -> str:
    """Apply the missing migrations, up to `to`, in one transaction, and return the new revision.

    An advisory lock, held until the transaction ends, makes concurrent migrations wait for each other.
    """
    async with _connected(dsn) as connection, connection.begin():
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        await connection.run_sync(_upgrade, to)
        return await connection.run_sync(_revision) or ""


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[AsyncConnection]:
    """Connect with asyncpg, so that every URL that the pool accepts (sockets, TLS) works here, too."""

    async def connect() -> Any:
        return await connect_as_owner(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, to: str) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
