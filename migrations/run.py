"""Bring a database to the newest schema, or say where it stands.

Whether there is anything to do is asked first, by one query: importing SQLAlchemy and Alembic takes longer than
everything else that a start does.
"""

import asyncpg

from infrastructure.postgres.pool import dsn_of

NEWEST = "0011"
"""The revision of the last file in `versions/`."""


async def migrate(url: str) -> str:
    """Apply every migration that `url` lacks, and return the revision it is at then."""
    if await current(url) == NEWEST:
        return NEWEST
    from migrations.upgrade import upgrade  # noqa: PLC0415  (see the module's docstring)

    return await upgrade(dsn_of(url))


async def current(url: str) -> str | None:
    """Return the revision that the database is at, or None if it was never migrated."""
    connection = await asyncpg.connect(dsn_of(url))
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return revision
    finally:
        await connection.close()
