"""`threadfold database`."""

import asyncio
import os
import subprocess
from collections.abc import Sequence

import click

from api.cli.bootstrap import connecting, explained, settings_of_stored_data
from api.cli.output import echo
from api.runtime.stores import database as stored_database
from infrastructure.settings import Settings


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def database(command: Sequence[str]) -> None:
    """Print the database's URL, or run a COMMAND with it in DATABASE_URL and as `{url}`.

    The embedded PostgreSQL runs only while a process uses it. So run your client by this command, as in
    `threadfold database psql {url}`, or while a server runs.
    """
    with explained():
        settings = settings_of_stored_data()
        with connecting(settings):
            status = asyncio.run(_use(settings, command))
    raise SystemExit(status)


async def _use(settings: Settings, command: Sequence[str]) -> int:
    async with stored_database(settings) as found:
        if not command:
            echo(found.url)
            return 0
        given = [word.replace("{url}", found.url) for word in command]
        try:
            done = await asyncio.to_thread(
                subprocess.run, given, env={**os.environ, "DATABASE_URL": found.url}, check=False
            )
        except OSError as error:
            raise click.ClickException(f"{given[0]} cannot be run: {error.strerror}") from error
        return done.returncode
