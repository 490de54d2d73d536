"""`threadfold threads`: list, show, events, state, budget, diff, tail."""

from contextlib import aclosing, suppress
from functools import partial

import click

from api.cli.bootstrap import answer, ask, here
from api.cli.budget import budget
from api.cli.diff import diff
from api.cli.options import back_to, filtered, limited, named_as_options
from api.cli.output import (
    as_json,
    echo,
    moment,
    show_fields,
    show_json,
    show_json_line,
    show_page,
    show_table,
    terminal,
)
from api.cli.turn_printer import Screen
from api.schemas.events import EventView, event_view
from api.schemas.page import Page
from api.schemas.state import StateView, WindowMessage, state_view
from api.services.history import HistoryCursor, PageRequest, PointInTime
from api.services.read_models import Filters
from api.services.threads import Service
from domain.application.streaming.follow import follow
from domain.ids import MAX_VERSION, ThreadId, Version
from domain.thread.codec import Recorded, to_json
from domain.thread.state import Ended
from projections.threads import ThreadSummary

WIDE_COLUMNS = 100
"""Columns of a terminal from which on a list of threads shows a second time."""


@click.group()
def threads() -> None:
    """Inspect threads. Times are in UTC."""


@threads.command("list")
@limited
@click.option("--cursor", help="Continue after the page that gave this cursor.")
@filtered
@as_json
def list_threads(*, limit: int, cursor: str | None, filters: Filters, as_json: bool) -> None:
    """List threads, the last opened first."""

    async def listing(service: Service) -> Page[ThreadSummary]:
        await service.runtime.catch_up()
        with named_as_options():
            return await service.reading.threads(filters, cursor, limit, here())

    def show(page: Page[ThreadSummary]) -> None:
        wide = terminal().width >= WIDE_COLUMNS
        headings = ["THREAD", "STATUS", "EVENTS", "OPENED (UTC)", *(["LAST EVENT (UTC)"] if wide else []), "TITLE"]
        empty = "There are no threads." if cursor is None else "There are no more threads."
        show_page(page, headings, partial(_entry, wide=wide), empty=empty)

    answer(listing, show, as_json=as_json)


@threads.command()
@click.argument("thread", type=click.UUID)
@back_to
@as_json
def show(*, thread: ThreadId, place: PointInTime, as_json: bool) -> None:
    """Summarise a thread: now, at a version, or at an instant."""
    answer(lambda service: service.history.summary(thread, here(), place), _show, as_json=as_json)


def _show(found: ThreadSummary) -> None:
    show_fields(
        ("Thread", str(found.thread_id)),
        ("Title", found.title or None),
        ("Graph", found.graph),
        ("Subject", found.subject or None),
        ("Status", found.status),
        ("Waits for", ", ".join(one.tool or f"node {one.node}" for one in found.waiting_for) or None),
        ("Events", f"{found.version:,}"),
        ("Checkpoint", found.checkpoint),
        ("Last event", f"{moment(found.last_event_at)} UTC"),
        *_spent(found),
        ("Running turn", str(found.running_turn) if found.running_turn else None),
        ("Last turn", _ended(found.last_turn)),
    )


@threads.command()
@click.argument("thread", type=click.UUID)
@click.option("--after", type=click.IntRange(0, MAX_VERSION), default=0, help="Begin after this version.")
@limited
@as_json
def events(*, thread: ThreadId, after: int, limit: int, as_json: bool) -> None:
    """Read a thread's events as they were recorded."""
    asked = PageRequest(limit, HistoryCursor("asc", after))
    page = ask(lambda service: service.history.events(thread, asked, here()))
    following = page.items[-1].version if page.next_cursor else None
    if as_json:
        show_json({"items": page.items, "next_after": following})
        return
    headings = ["VERSION", "RECORDED (UTC)", "EVENT", "DATA"]
    show_table(headings, map(_event, page.items), empty=f"There are no events after version {after}.")
    if following:
        echo(f"There are more: --after {following}", err=True)


@threads.command()
@click.argument("thread", type=click.UUID)
@back_to
@as_json
def state(*, thread: ThreadId, place: PointInTime, as_json: bool) -> None:
    """Show a thread's state: now, at a version, or at an instant."""

    async def viewed(service: Service) -> StateView:
        return state_view(await service.history.state(thread, place, here()))

    answer(viewed, _show_state, as_json=as_json)


def _show_state(view: StateView) -> None:
    turn = view.turn
    calls = ", ".join(f"{call.request.name} ({call.status})" for call in turn.calls) if turn else ""
    show_fields(
        ("Thread", str(view.thread_id)),
        ("Version", str(view.version)),
        ("Checkpoint", view.checkpoint),
        ("Recorded at", f"{moment(view.recorded_at)} UTC"),
        ("Graph", view.graph),
        ("Status", view.status),
        ("Values", to_json(view.values)),
        *_spent(view),
        ("Running turn", f"{turn.turn_id}, attempt {turn.attempt} at node {turn.node}" if turn else None),
        ("Open calls", calls or None),
        ("Last turn", _ended(view.last_turn)),
        ("Summary", f"up to version {view.summary.through}: {view.summary.text}" if view.summary else None),
    )
    if view.window:
        echo()
        show_table(["VERSION", "ROLE", "LIVE WINDOW"], map(_message, view.window), wrap=True)


@threads.command()
@click.argument("thread", type=click.UUID)
@click.option("--after", type=click.IntRange(0, MAX_VERSION), help="Begin after this version.  [default: now]")
@as_json
def tail(*, thread: ThreadId, after: int | None, as_json: bool) -> None:
    """Follow a thread live, until Ctrl-C; with --json, one event a line."""

    async def show(service: Service) -> None:
        seen = None if after is None else Version(after)
        loaded = await service.history.begin_stream(thread, here(), seen, "--after")
        begin = loaded.head.version if seen is None else seen
        screen, broadcast = Screen(users=True), service.runtime.turns.services.broadcast
        async with aclosing(follow(service.runtime.repository, broadcast, thread, begin)) as following:
            async for signal in following:
                if isinstance(signal, Recorded) and as_json:
                    show_json_line(to_json(event_view(signal)))
                elif signal is not None and not as_json:
                    screen.show(signal)

    with suppress(KeyboardInterrupt):
        ask(show)


def _entry(entry: ThreadSummary, *, wide: bool) -> list[str]:
    opened, last = moment(entry.opened_at), moment(entry.last_event_at)
    return [str(entry.thread_id), _status(entry), f"{entry.version:,}", opened, *([last] if wide else []), entry.title]


def _status(entry: ThreadSummary) -> str:
    """Return the status, and for an idle thread how its last turn ended, unless it just completed."""
    last = entry.last_turn
    if entry.status != "idle" or last is None or (last.outcome, last.reason) == ("completed", None):
        return entry.status
    return f"{entry.status}, {_outcome(last)}"


def _event(event: EventView) -> list[str]:
    return [str(event.version), moment(event.recorded_at), event.type, to_json(event.data)]


def _spent(of: ThreadSummary | StateView) -> list[tuple[str, str | None]]:
    tokens = f"{of.prompt_tokens:,} in prompts, {of.completion_tokens:,} in answers"
    return [("Turns", f"{of.turns:,}"), ("Tokens", tokens)]


def _ended(turn: Ended | None) -> str | None:
    if turn is None:
        return None
    return f"{turn.turn_id} {_outcome(turn)}" + (f": {turn.detail}" if turn.detail else "")


def _outcome(turn: Ended) -> str:
    """Return how a turn ended, with the reason if it says more."""
    return turn.outcome if turn.reason in {None, turn.outcome} else f"{turn.outcome} ({turn.reason})"


def _message(message: WindowMessage) -> list[str]:
    calls = [f"→ {call.name} {to_json(call.arguments)}" for call in message.tool_calls]
    role = f"tool {message.name}" if message.role == "tool" else message.role
    return [str(message.version), role, "\n".join([*([message.content] if message.content else []), *calls])]


threads.add_command(budget)
threads.add_command(diff)
