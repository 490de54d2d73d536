"""`threadfold migrate`."""

import asyncio
from datetime import UTC, datetime

import click

from api.cli.bootstrap import CLIENT, connecting, explained, here, place_of, settings_of_stored_data
from api.cli.output import echo
from api.runtime.stores import database
from domain.ports.access_log import Access
from infrastructure.postgres.access_log import PostgresAccessLog
from infrastructure.postgres.pool import open_pool
from infrastructure.settings import Settings
from migrations.run import NEWEST, current
from migrations.run import migrate as upgrade

READS_SINCE = "0005"
"""The revision that made the table of the access log."""


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
        before = await current(found.url)
        if before is not None and READS_SINCE <= before < NEWEST:
            await _record(found.url)
        after = await upgrade(found.url)
        if before is None or before < READS_SINCE:
            await _record(found.url)  # there was no table for it
        return before, after


async def _record(url: str) -> None:
    caller = here()
    async with await open_pool(url, max_size=1) as pool:
        log = PostgresAccessLog(pool)
        await log.record(Access(datetime.now(UTC), caller.tenant, "migrate", caller.request, (), caller.actor, CLIENT))
        await log.close()
