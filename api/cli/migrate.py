"""`threadfold migrate`."""

import asyncio

import click

from api.cli.bootstrap import connecting, explained, place_of, settings_of_stored_data
from api.cli.output import echo
from api.runtime.stores import database
from infrastructure.settings import Settings
from migrations.run import current
from migrations.run import migrate as upgrade


@click.command()
def migrate() -> None:
    """Migrate the database to the newest schema, and print its revision."""
    with explained():
        settings = settings_of_stored_data()
        with connecting(settings):
            before, after = asyncio.run(_migrate(settings))
    done = "is the newest already" if before == after else f"was {before or 'none'} before"
    echo(f"Revision {after} ({done}): {place_of(settings)}")


async def _migrate(settings: Settings) -> tuple[str | None, str]:
    async with database(settings) as found:
        return await current(found.url), await upgrade(found.url)
