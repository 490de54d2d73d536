"""`threadfold replay`."""

from collections.abc import Sequence

import click

from api.cli.bootstrap import EXIT_PROBLEM, answer, here
from api.cli.output import as_json, counted
from domain.application.replay import ReplayedTurn
from domain.ids import ThreadId


@click.command()
@click.argument("thread", type=click.UUID)
@click.option("--graph", help="Another agent: a registered one's name, or as in AGENTS.  [default: the thread's own]")
@as_json
def replay(*, thread: ThreadId, graph: str | None, as_json: bool) -> None:
    """Run a thread's turns again with the recorded answers, and show where they differ from the log.

    No model or tool is called, and nothing is stored. The exit status is 1 if a turn differs.
    """
    turns = answer(lambda service: service.replay(thread, graph, here()), _show, as_json=as_json)
    if any(turn.parted is not None for turn in turns):
        raise SystemExit(EXIT_PROBLEM)


def _show(turns: Sequence[ReplayedTurn]) -> None:
    for number, turn in enumerate(turns, 1):
        then, now = sum(turn.prompts_then), sum(turn.prompts_now)
        prompts = f" Prompts: {now:,} tokens instead of {then:,}." if now != then else ""
        how = "as recorded" if turn.parted is None else f"differs at version {turn.parted}"
        click.echo(f"Turn {number}, version {turn.version}: {how}.{prompts}")
        if turn.parted is not None:
            click.echo(f"  recorded: {turn.recorded or 'nothing more'}")
            click.echo(f"  now:      {turn.replayed or 'nothing more'}")
    parted = sum(turn.parted is not None for turn in turns)
    click.echo(f"{counted(len(turns), 'turn')}: {len(turns) - parted} as recorded, {parted} different.")
