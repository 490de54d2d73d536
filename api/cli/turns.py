"""`threadfold turns`: list."""

from datetime import datetime
from functools import partial
from typing import get_args

import click

from api.cli.bootstrap import answer, here
from api.cli.options import instant_option, limited, named_as_options
from api.cli.output import as_json, moment, show_page, terminal
from api.schemas.page import Page
from api.services.read_models import MAX_COST_USD, MAX_DURATION_MS
from api.services.threads import Service
from domain.ids import ThreadId
from domain.money import units
from projections.threads import REASONS
from projections.turn_list import TURN_STATES, Sort, TurnFilters, TurnSummary

WIDE_COLUMNS = 140
"""Columns of a terminal from which on a list of turns shows threads and tools."""

_dollars = partial(click.option, type=click.FloatRange(0, MAX_COST_USD))
_milliseconds = partial(click.option, type=click.IntRange(0, MAX_DURATION_MS))


@click.group()
def turns() -> None:
    """List turns. Times are in UTC."""


@turns.command("list")
@click.option("--thread", type=click.UUID, help="Only turns of this thread.")
@click.option("--outcome", type=click.Choice(TURN_STATES), multiple=True, help="Only turns that ended so, or do this.")
@click.option("--reason", type=click.Choice(REASONS), multiple=True, help="Only turns that ended for this reason.")
@click.option("--graph", help="Only turns of this agent's graph.")
@click.option("--tool", multiple=True, help="Only turns that called this tool, or one of several.")
@instant_option("--created-since", help="Only turns from this instant on, such as 2026-11-23T10:00:00Z.")
@instant_option("--created-before", help="Only turns before this instant.")
@_dollars("--min-cost-usd", help="Only turns that cost at least this.")
@_dollars("--max-cost-usd", help="Only turns that cost at most this.")
@_milliseconds("--min-duration-ms", help="Only turns that took at least this.")
@_milliseconds("--max-duration-ms", help="Only turns that took at most this.")
@click.option("--sort", type=click.Choice(get_args(Sort)), default="created_at", show_default=True)
@click.option("--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True)
@limited
@click.option("--cursor", help="Continue after the page that gave this cursor.")
@as_json
def list_turns(
    *,
    thread: ThreadId | None,
    outcome: tuple[str, ...],
    reason: tuple[str, ...],
    graph: str | None,
    tool: tuple[str, ...],
    created_since: datetime | None,
    created_before: datetime | None,
    min_cost_usd: float | None,
    max_cost_usd: float | None,
    min_duration_ms: int | None,
    max_duration_ms: int | None,
    sort: Sort,
    order: str,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List turns, the latest first."""
    filters = TurnFilters(
        outcome,
        reason,
        graph,
        tool,
        created_since,
        created_before,
        None if min_cost_usd is None else units(min_cost_usd),
        None if max_cost_usd is None else units(max_cost_usd),
        min_duration_ms,
        max_duration_ms,
        sort,
        order == "desc",
    )

    async def listing(service: Service) -> Page[TurnSummary]:
        await service.runtime.catch_up()
        with named_as_options():
            return await service.reading.turns(filters, cursor, limit, here(), thread)

    def show(page: Page[TurnSummary]) -> None:
        wide = terminal().width >= WIDE_COLUMNS
        headings = ["TURN", *(["THREAD"] if wide else []), "CREATED (UTC)", "OUTCOME", "TOOK", "COST"]
        empty = "There are no such turns." if cursor is None else "There are no more turns."
        show_page(page, [*headings, *(["TOOLS"] if wide else []), "MESSAGE"], partial(_entry, wide=wide), empty=empty)

    answer(listing, show, as_json=as_json)


def _entry(turn: TurnSummary, *, wide: bool) -> list[str]:
    outcome = turn.outcome if turn.reason in {None, turn.outcome} else f"{turn.outcome} ({turn.reason})"
    took = "" if turn.duration_ms is None else f"{turn.duration_ms / 1_000:,.1f} s"
    cells = [str(turn.turn_id), *([str(turn.thread_id)] if wide else []), moment(turn.created_at), outcome, took]
    tools = [", ".join(turn.tools)] if wide else []
    return [*cells, f"${turn.cost_usd:.4f}", *tools, " ".join((turn.user_input or "").split())]
