"""`threadfold replay`."""

from collections.abc import Sequence

import click

from api.cli.bootstrap import EXIT_PROBLEM, answer, here
from api.cli.options import filtered, named_as_options
from api.cli.output import as_json, counted, echo, show_table
from api.services.read_models import Filters
from api.services.replays import DEFAULT_THREADS
from api.services.threads import Service
from domain.agents.agent import Agent
from domain.application.replay.compare import ReplayedTurn, TurnSummary
from domain.application.replay.report import MAX_REPLAYED_THREADS, ReplayedThread, ReplayReport, ReplayTotals
from domain.ids import ThreadId
from infrastructure.agent_loader import load_agents
from infrastructure.settings import BadSetting, is_agent_file

MAX_CELL_CHARACTERS = 40
"""Characters of a message or of names of tools in a table."""

MAX_TEXT_CHARACTERS = 200
"""Characters of an answer below a table."""


@click.command()
@click.argument("threads", metavar="[THREAD...]", type=click.UUID, nargs=-1)
@filtered
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_REPLAYED_THREADS),
    help=f"Threads at most.  [default: {DEFAULT_THREADS}, or all that are named]",
)
@click.option("--graph", help="Another agent: a registered one's name, or as in AGENTS.  [default: the thread's own]")
@click.option("--live", is_flag=True, help="Ask the models again. This costs money, and no budget counts it.")
@click.option("--only-different", is_flag=True, help="Leave out turns that are the same.")
@as_json
def replay(
    *,
    threads: tuple[ThreadId, ...],
    filters: Filters,
    limit: int | None,
    graph: str | None,
    live: bool,
    only_different: bool,
    as_json: bool,
) -> None:
    """Run the turns of threads again with what was recorded, and show where they differ from the log.

    Without THREAD, replays those that match the options, the last opened first. No tool is called, nothing is stored,
    and without --live no model is asked. The exit status is 1 if a turn differs or cannot be replayed.
    """
    if threads and filters != Filters():
        raise click.UsageError("Name threads, or choose them by options; not both.")
    if len(threads) > MAX_REPLAYED_THREADS:
        raise click.UsageError(f"At most {MAX_REPLAYED_THREADS} threads can be replayed at once.")

    async def replayed(service: Service) -> ReplayReport:
        agent = _agent(service, graph) if graph is not None else None
        if not threads:
            await service.runtime.catch_up()
        with named_as_options():
            return await service.replays.report(
                threads or filters, agent, here(), live=live, only_different=only_different, limit=limit
            )

    report = answer(replayed, _show, as_json=as_json)
    if not report.is_same:
        raise SystemExit(EXIT_PROBLEM)


def _agent(service: Service, graph: str) -> Agent:
    """Return the agent of the option --graph. Raises `BadSetting`."""
    if ":" in graph or is_agent_file(graph):
        return load_agents([graph], "--graph")[0]
    agents = service.runtime.agents
    if graph not in agents:
        known = ", ".join(sorted(agents))
        raise BadSetting(f"--graph={graph}: there is no agent of this name or file; known agents: {known}")
    return agents[graph]


def _show(report: ReplayReport) -> None:
    for thread in report.threads:
        _show_thread(thread)
    turns = report.same + report.differs + report.unknown
    if not turns and not report.failed:
        echo("There are no turns to replay.")
        return
    failed = f"; {counted(report.failed, 'thread')} not replayed to the end" if report.failed else ""
    verdicts = f"{report.same:,} same, {report.differs:,} different, {report.unknown:,} unknown"
    echo(f"{counted(turns, 'turn')}: {verdicts}{failed}.")
    then, now = report.then, report.now
    echo(f"Tokens: {_tokens(then):,} then, {_tokens(now):,} now. Cost: {_cost(then)} then, {_cost(now)} now.")
    if report.truncated:
        echo("There are more threads or turns. --limit takes up to 200 threads; or name fewer.", err=True)


def _show_thread(thread: ReplayedThread) -> None:
    echo(f"Thread {thread.thread_id}{f', agent {thread.agent}' if thread.agent else ''}")
    if thread.turns:
        show_table(["VERSION", "VERDICT", "OUTCOME", "TOOLS", "TOKENS", "COST", "SAID"], map(_row, thread.turns))
    for turn in thread.turns:
        _show_difference(turn)
    if thread.error:
        echo(f"Not replayed to the end: {_cut(thread.error, MAX_TEXT_CHARACTERS * 2)}")
    elif not thread.turns:
        echo("No turn of it has ended.")
    echo()


def _row(turn: ReplayedTurn) -> Sequence[str]:
    then, now = turn.then, turn.now
    return [
        str(turn.version),
        turn.verdict,
        _change(_outcome(then), _outcome(now)),
        _change(_tools(then), _tools(now)),
        _change(f"{_tokens(then):,}", f"{_tokens(now):,}"),
        _change(_cost(then), _cost(now)),
        _cut(turn.said, MAX_CELL_CHARACTERS),
    ]


def _show_difference(turn: ReplayedTurn) -> None:
    if turn.parted is None:
        return
    lines = [
        f"Version {turn.version} differs at version {turn.parted}.",
        f"  recorded: {_cut(turn.recorded or 'nothing more', MAX_TEXT_CHARACTERS)}",
        f"  now:      {_cut(turn.replayed or 'nothing more', MAX_TEXT_CHARACTERS)}",
    ]
    if turn.then.answer != turn.now.answer:
        lines += [
            f"  answer then: {_cut(turn.then.answer or 'none', MAX_TEXT_CHARACTERS)}",
            f"  answer now:  {_cut(turn.now.answer or 'none', MAX_TEXT_CHARACTERS)}",
        ]
    if turn.unknown:
        lines.append(f"  The log does not have {_cut(turn.unknown, MAX_TEXT_CHARACTERS)}")
    for line in lines:
        echo(line)


def _change(then: str, now: str) -> str:
    return then if then == now else f"{then} → {now}"


def _outcome(turn: TurnSummary) -> str:
    return turn.outcome if turn.reason is None else f"{turn.outcome} ({turn.reason})"


def _tools(turn: TurnSummary) -> str:
    return _cut(", ".join(use.tool for use in turn.tools), MAX_CELL_CHARACTERS) or "none"


def _tokens(of: TurnSummary | ReplayTotals) -> int:
    return of.prompt_tokens + of.completion_tokens


def _cost(of: TurnSummary | ReplayTotals) -> str:
    return f"${of.cost_usd:.6f}"


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
