"""`threadfold agents`: check."""

import click

from api.cli.bootstrap import EXIT_PROBLEM, answer
from api.cli.output import as_json, counted, echo, show_table
from api.services.missing_nodes import MissingReport, ThreadMissing, find_missing
from api.services.threads import Service
from domain.agents.graph import alias_advice
from domain.agents.missing_nodes import MissingTurn

PROBLEMS = {"agent": "no such agent", "node": "no such node"}


@click.group()
def agents() -> None:
    """Check the agents against the stored turns."""


@agents.command()
@as_json
def check(*, as_json: bool) -> None:
    """List open turns that no agent can continue.

    AGENTS lacks their node or their agent. Run this before a deployment, with the new AGENTS and the database. Exits
    with 1 if there are such turns.
    """

    async def find(service: Service) -> MissingReport:
        await service.runtime.catch_up()
        return await find_missing(service.runtime)

    if answer(find, _show, as_json=as_json).threads:
        raise SystemExit(EXIT_PROBLEM)


def _show(report: MissingReport) -> None:
    rows = [_row(thread, turn) for thread in report.threads for turn in thread.turns]
    if rows:
        show_table(["AGENT", "VERSION", "NODE", "STATUS", "THREAD", "PROBLEM"], sorted(rows))
        echo()
        for node in dict.fromkeys(
            turn.node for thread in report.threads for turn in thread.turns if turn.missing == "node"
        ):
            echo(f"{node}: {alias_advice(node)}.")
    found = f"{counted(len(rows), 'turn')} cannot be continued" if rows else "each turn can be continued"
    echo(f"Checked {counted(report.checked, 'thread')} with an open turn: {found}.")


def _row(thread: ThreadMissing, turn: MissingTurn) -> list[str]:
    return [turn.agent, turn.version, turn.node, turn.status, str(thread.thread_id), PROBLEMS[turn.missing]]
