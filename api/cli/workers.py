"""`threadfold workers`."""

import click

from api.cli.bootstrap import ask
from api.cli.output import as_json as json_option
from api.cli.output import moment, show_json, show_table
from api.schemas.about import WorkerView


@click.command()
@json_option
def workers(*, as_json: bool) -> None:
    """List the processes that run turns, with their number of the 64 shards."""
    found = ask(lambda service: service.workers())
    if as_json:
        show_json(found)
        return
    show_table(["WORKER", "WHERE", "SINCE", "SHARDS", ""], [_row(worker) for worker in found])


def _row(worker: WorkerView) -> list[str]:
    note = "standby" if worker.standby else ""
    return [str(worker.worker_id), worker.name, moment(worker.started_at), str(len(worker.shards)), note]
