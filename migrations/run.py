"""Bring a database to the newest schema, or say where it stands.

Whether there is anything to do is asked first, by one query: importing SQLAlchemy and Alembic takes longer than
everything else that a start does.
"""

from infrastructure.postgres.pool import connect_as_owner, dsn_of
from infrastructure.postgres.requirements import check_before_migrating

NEWEST = "0011"
"""The revision of the last file in `versions/`."""


async def migrate(url: str) -> str:
    """Apply every migration that `url` lacks, and return the revision it is at then.

    Raises `UnfitDatabase`, before anything is changed, if the database is not set up for it.
    """
    if await current(url, check=True) == NEWEST:
        return NEWEST
    from migrations.upgrade import upgrade  # noqa: PLC0415  (see the module's docstring)

    return await upgrade(dsn_of(url))


async def current(url: str, *, check: bool = False) -> str | None:
    """Return the revision that the database is at, or None if it was never migrated.

    With `check`, raises `UnfitDatabase` if it is not at the newest one and cannot be brought there.
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
