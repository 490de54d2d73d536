"""`threadfold threads budget`."""

import click

from api.cli.bootstrap import answer
from api.cli.options import back_to
from api.cli.output import as_json, echo, moment, show_fields, show_table
from api.http.caller import Caller
from api.schemas.budget import BudgetView, WindowSpending
from api.services.history import PointInTime
from domain.ids import ThreadId


@click.command()
@click.argument("thread", type=click.UUID)
@back_to
@as_json
def budget(*, thread: ThreadId, place: PointInTime, as_json: bool) -> None:
    """Show a thread's limits, what is spent and what is left: now, at a version, or at an instant."""
    answer(lambda service: service.budget(thread, Caller(), place), _show, as_json=as_json)


def _show(view: BudgetView) -> None:
    models = [
        f"{spent.model}: {spent.prompt_tokens:,} in prompts, {spent.completion_tokens:,} in answers"
        for spent in view.windows[-1].models  # the lifetime
    ]
    until = f"until {moment(view.until)} UTC" if view.until else "until a new budget is set"
    show_fields(
        ("Thread", str(view.thread_id)),
        ("Version", str(view.version)),
        ("Checkpoint", view.checkpoint),
        ("At", f"{moment(view.at)} UTC"),
        ("Budget", "nothing limits it" if not view.limits else "over" if view.over else "not used up"),
        ("Over", until if view.over else None),
        ("Models", "\n".join(models) or None),
    )
    echo()
    show_table(["WINDOW", "SINCE (UTC)", "TOKENS", "COST", "LEFT"], map(_window, view.windows))


def _window(of: WindowSpending) -> list[str]:
    left = ["not limited"]
    if of.left:
        left = [] if of.left.tokens is None else [f"{of.left.tokens:,} tokens"]
        left += [] if of.left.cost_usd is None else [_money(of.left.cost_usd)]
    since = moment(of.start) if of.start else "ever"
    return [of.window, since, f"{of.tokens:,}", _money(of.cost_usd), ", ".join(left)]


def _money(dollars: float) -> str:
    return f"${dollars:,.12g}"
