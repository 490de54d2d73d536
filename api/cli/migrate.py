"""`threadfold migrate`."""

import asyncio

import click

from api.cli.bootstrap import NothingKept, connecting, explained, log_to_stderr, place_of
from api.runtime.stores import MEMORY, database
from infrastructure.settings import Settings, load_settings
from migrations.run import current
from migrations.run import migrate as upgrade


@click.command()
def migrate() -> None:
    """Migrate the database to the newest schema, and print its revision."""
    with explained():
        settings = load_settings()
        log_to_stderr("warning")
        if settings.database_url == MEMORY:
            raise NothingKept
        with connecting(settings):
            before, after = asyncio.run(_migrate(settings))
    done = "is the newest already" if before == after else f"was {before or 'none'} before"
    click.echo(f"Revision {after} ({done}): {place_of(settings)}")


async def _migrate(settings: Settings) -> tuple[str | None, str]:
    async with database(settings) as found:
        return await current(found.url), await upgrade(found.url)
