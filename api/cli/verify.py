"""`threadfold verify`."""

import click

from api.cli.bootstrap import EXIT_PROBLEM, answer, here
from api.cli.output import as_json, counted, show_checked
from api.schemas.seals import VerificationReport
from domain.ids import ThreadId


@click.command()
@click.argument("thread", type=click.UUID, required=False)
@as_json
def verify(*, thread: ThreadId | None, as_json: bool) -> None:
    """Check every hash, version, position and payload of the log, and its seals, or check one THREAD.

    Exits with 1 if there are problems.
    """
    report = answer(
        lambda service: service.audit.verify_thread(thread, here()) if thread else service.audit.verify(here()),
        _show,
        as_json=as_json,
    )
    if report.problems:
        raise SystemExit(EXIT_PROBLEM)


def _show(report: VerificationReport) -> None:
    checked = f"{counted(report.threads, 'thread')}, {counted(report.events, 'event')}"
    slices = f", {counted(report.slices, 'slice')}" if report.slices else ""
    seals = f", {counted(report.seals, 'seal')}" if report.seals else ""
    show_checked(f"{checked}{slices}{seals} in {report.seconds:.1f} s", report.problems)
