"""Migrating a database, and reading its revision.

A query checks first whether there is anything to do: importing SQLAlchemy and Alembic takes longer than the rest of a
start.
"""

from infrastructure.postgres.pool import connect_as_owner, dsn_of
from infrastructure.postgres.requirements import check_before_migrating

NEWEST = "0013"
"""The revision of the last file in `versions/`."""


async def migrate(url: str) -> str:
    """Apply the missing migrations to the database at `url`, and return its revision.

    Raises `UnfitDatabase`, before any change, if the database is not set up for that.
    """
    if await current(url, check=True) == NEWEST:
        return NEWEST
    from migrations.upgrade import upgrade  # noqa: PLC0415  (see the module's docstring)

    return await upgrade(dsn_of(url))


async def current(url: str, *, check: bool = False) -> str | None:
    """Return the database's revision; None if it was never migrated.

    With `check`, raises `UnfitDatabase` if it is not the newest one and cannot be migrated.
    """
    connection = await connect_as_owner(url)
    try:
        revision: str | None = None
        if await connection.fetchval("SELECT to_regclass('public.alembic_version')") is not None:
            revision = await connection.fetchval("SELECT version_num FROM public.alembic_version")
        if check and revision != NEWEST:
            await check_before_migrating(connection)
        return revision
    finally:
        await connection.close()
