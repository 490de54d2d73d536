"""`threadfold export`."""

import time
from pathlib import Path

import click
from msgspec import Struct

from api.cli.bootstrap import answer, here
from api.cli.output import as_json, counted, echo
from api.cli.progress import bars
from api.services.threads import Service
from infrastructure.archive.export import Exported, export_log
from infrastructure.archive.manifest import Format


class Report(Struct, frozen=True):
    """What was exported, and in how many seconds."""

    exported: Exported
    seconds: float


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["parquet", "ndjson"]),
    help="Of the files. Default: that of the export in this directory; for a new one, parquet.",
)
@as_json
def export(*, directory: Path, format_: Format | None, as_json: bool) -> None:
    """Write the new events of the log to files in DIRECTORY, by day.

    Each run continues where the previous one ended. If a run was killed, run it again. docs/export.md describes the
    files.
    """
    answer(lambda service: _export(service, directory, format_), _show, as_json=as_json)


async def _export(service: Service, directory: Path, format_: Format | None) -> Report:
    started, runtime = time.monotonic(), service.runtime
    await service.access_log.record_log(here(), "export")
    with bars() as shown:
        exported = await export_log(
            runtime.repository.store,
            runtime.log.archive,
            directory,
            format_,
            lambda new, more: shown.more("Events", more, new),
        )
    return Report(exported, round(time.monotonic() - started, 3))


def _show(report: Report) -> None:
    done = report.exported
    written = f"{counted(done.events, 'new event')} and {counted(done.commands, 'command')}"
    holds = f"{counted(done.all_events, 'event')} in {counted(done.all_files, 'file')} ({done.format})"
    echo(f"Exported {written} in {report.seconds:.1f} s: {done.directory} holds {holds}.")
