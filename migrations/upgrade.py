"""Applying migrations with Alembic, without a configuration file."""

from functools import partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from infrastructure.postgres.pool import connect_as_owner

_LOCK = 0x7468_7265_6164  # "thread"


async def upgrade(dsn: str, to: str = "head") -> str:
    """Apply the missing migrations, up to `to`, in one transaction, and return the new revision.

    An advisory lock, held until the transaction ends, makes concurrent migrations wait for each other.
    """
    creator = partial(connect_as_owner, dsn)  # so that every URL that the pool accepts (sockets, TLS) works here, too
    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            return await connection.run_sync(_upgrade, to)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, to: str) -> str:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to)
    return MigrationContext.configure(connection).get_current_revision() or ""
