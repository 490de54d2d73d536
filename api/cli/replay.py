"""`threadfold replay`."""

import logging
from collections.abc import Sequence
from uuid import UUID

import click

from api.cli.bootstrap import EXIT_PROBLEM, ask, here
from api.cli.output import as_json as json_option
from api.cli.output import counted, show_json
from api.services.threads import Service
from domain.application.replay.compare import ReplayedTurn
from domain.ids import ThreadId


@click.command()
@click.argument("thread", type=click.UUID)
@click.option("--graph", help="Another agent: a registered one's name, or as in AGENTS.  [default: the thread's own]")
@json_option
def replay(*, thread: UUID, graph: str | None, as_json: bool) -> None:
    """Run a thread's turns again with the recorded answers, and show where they differ from the log.

    No model or tool is called, and nothing is stored. The exit status is 1 if a turn differs.
    """

    async def again(service: Service) -> Sequence[ReplayedTurn]:
        return await service.replay(ThreadId(thread), graph, here())

    # A turn that fails here is a line of the report, and not a traceback in the log.
    logging.getLogger("domain.application.turns").setLevel(logging.CRITICAL)
    turns = ask(again)
    if as_json:
        show_json(turns)
    else:
        for number, turn in enumerate(turns, 1):
            _show(number, turn)
        parted = sum(turn.parted is not None for turn in turns)
        unknown = sum(turn.unknown is not None for turn in turns)
        of_these = f" ({unknown} of these for lack of a recorded answer)" if unknown else ""
        click.echo(f"{counted(len(turns), 'turn')}: {len(turns) - parted} as recorded, {parted} different{of_these}.")
    if any(turn.parted is not None for turn in turns):
        raise SystemExit(EXIT_PROBLEM)


def _show(number: int, turn: ReplayedTurn) -> None:
    then, now = sum(turn.prompts_then), sum(turn.prompts_now)
    prompts = f" Prompts: {now:,} tokens instead of {then:,}." if now != then else ""
    if turn.parted is None:
        click.echo(f"Turn {number}, version {turn.version}: as recorded.{prompts}")
        return
    click.echo(f"Turn {number}, version {turn.version}: differs at version {turn.parted}.{prompts}")
    click.echo(f"  recorded: {turn.recorded or 'nothing more'}")
    click.echo(f"  now:      {turn.replayed or 'nothing more'}")
    if turn.unknown:
        click.echo(f"  The log does not have {turn.unknown}")
