"""`threadfold verify`."""

from uuid import UUID

import click

from api.cli.bootstrap import EXIT_PROBLEM, ask
from api.cli.output import as_json, counted, show_json, visible
from api.schemas.seals import VerificationReport
from domain.ids import ThreadId


@click.command()
@click.argument("thread", type=click.UUID, required=False)
@as_json
def verify(*, thread: UUID | None, as_json: bool) -> None:
    """Check every hash, version, position and payload of the log, and its seals, or check one THREAD.

    Exits with 1 if there are problems.
    """
    report = ask(lambda service: service.audit.verify_thread(ThreadId(thread)) if thread else service.audit.verify())
    if as_json:
        show_json(report)
    else:
        _show(report)
    if report.problems:
        raise SystemExit(EXIT_PROBLEM)


def _show(report: VerificationReport) -> None:
    for problem in report.problems:
        click.echo(visible(problem))
    checked = f"{counted(report.threads, 'thread')}, {counted(report.events, 'event')}"
    slices = f", {counted(report.slices, 'slice')}" if report.slices else ""
    seals = f", {counted(report.seals, 'seal')}" if report.seals else ""
    found = counted(len(report.problems), "problem") if report.problems else "no problem"
    click.echo(f"Checked {checked}{slices}{seals} in {report.seconds:.1f} s: {found} found.")
