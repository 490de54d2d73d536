"""`threadfold import`."""

import time
from pathlib import Path

import click
from msgspec import Struct

from api.cli.bootstrap import answer, here
from api.cli.output import as_json, counted, echo
from api.cli.progress import bars
from api.services.threads import Service
from domain.application.archive import Imported, import_log
from infrastructure.archive.reading import ExportedFiles


class Report(Struct, frozen=True):
    """What was imported, and in how many seconds."""

    imported: Imported
    seconds: float


@click.command("import")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@as_json
def import_(*, directory: Path, as_json: bool) -> None:
    """Import the export in DIRECTORY into an empty database.

    The import is one transaction: if a run was killed, the database is still empty, so run it again. Every file, hash,
    version and position is checked before the commit.
    """
    answer(lambda service: _import(service, directory), _show, as_json=as_json)


async def _import(service: Service, directory: Path) -> Report:
    started = time.monotonic()
    files = ExportedFiles(directory)
    total = sum(file.rows for file in files.manifest.events)
    totals = {"events": total, "verified": total, "commands": sum(file.rows for file in files.manifest.commands)}
    with bars() as shown:
        files.check(lambda size: shown.more("Bytes checked", size, files.size))
        await service.access_log.record_operation(here(), "import")
        imported = await import_log(
            service.runtime.log.archive, files, lambda what, more: shown.more(what.capitalize(), more, totals.get(what))
        )
    return Report(imported, round(time.monotonic() - started, 3))


def _show(report: Report) -> None:
    imported = report.imported
    what = f"{counted(imported.events, 'event')}, {counted(imported.threads, 'thread')}"
    what += f", {counted(imported.commands, 'command')}"
    verified = "Every hash, version and position was verified."
    going_on = f" {counted(imported.running, 'thread')} will continue." if imported.running else ""
    echo(f"Imported {what} in {report.seconds:.1f} s. {verified}{going_on}")
