"""`threadfold workers`."""

import click

from api.cli.bootstrap import answer
from api.cli.output import as_json, moment, show_table
from api.schemas.about import WorkerView


@click.command()
@as_json
def workers(*, as_json: bool) -> None:
    """List the processes that run turns, with their number of the 64 shards."""
    headings = ["WORKER", "WHERE", "SINCE", "SHARDS", ""]
    answer(lambda service: service.workers(), lambda found: show_table(headings, map(_row, found)), as_json=as_json)


def _row(worker: WorkerView) -> list[str]:
    note = "standby" if worker.standby else ""
    return [str(worker.worker_id), worker.name, moment(worker.started_at), str(len(worker.shards)), note]
