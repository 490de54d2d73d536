"""`threadfold threads diff`."""

from datetime import datetime

import click
from msgspec import Struct
from msgspec.structs import asdict

from api.cli.bootstrap import answer, here
from api.cli.options import limited, version_or_instant
from api.cli.output import as_json, echo, moment, show_fields, show_table
from api.schemas.history import DiffView, PointView
from api.services.history import PointInTime
from domain.ids import ThreadId
from domain.thread.codec import to_json
from domain.thread.diff import ValueChange


@click.command()
@click.argument("thread", type=click.UUID)
@click.argument("since", metavar="FROM", type=version_or_instant)
@click.argument("until", metavar="[TO]", type=version_or_instant, required=False)
@limited
@as_json
def diff(*, thread: ThreadId, since: int | datetime, until: int | datetime | None, limit: int, as_json: bool) -> None:
    """Show what happened after FROM and up to TO, by default up to now: versions, or instants in ISO 8601.

    FROM 0 is before the first event.
    """
    begin, end = _either(since, "from"), _either(until, "to")
    answer(lambda service: service.history.diff(thread, begin, end, limit, None, here()), _show, as_json=as_json)


def _show(view: DiffView) -> None:
    changes, counts = view.changes, view.counts
    summary = changes.summary and changes.summary.after
    calls = [f"{tool}: {_numbers(found)}" for tool, found in counts.tool_calls.items()]
    nodes = [f"{node}: {_numbers(found)}" for node, found in counts.nodes.items()]
    models = [f"{model}: {number:,}" for model, number in counts.model_calls.items()]
    tokens = f"{counts.tokens.prompt:,} in prompts, {counts.tokens.completion:,} in answers"
    counted = f" (counted up to version {view.counted_to})" if view.truncated else ""
    show_fields(
        ("Thread", str(view.thread_id)),
        ("From", _place(view.since)),
        ("To", _place(view.until)),
        ("Values", "\n".join(f"{value.pointer} {_value(value)}" for value in changes.values) or None),
        ("Graph", f"{changes.graph.before or 'none'} → {changes.graph.after}" if changes.graph else None),
        ("Summary", f"up to version {summary.through}: {summary.text}" if summary else None),
        ("Events", f"{sum(counts.events.values()):,}{counted}"),
        ("Messages", _numbers(counts.messages) or None),
        ("Turns", _numbers(counts.turns) or None),
        ("Tool calls", "\n".join(calls) or None),
        ("Nodes", "\n".join(nodes) or None),
        ("Model calls", "\n".join(models) or None),
        ("Tokens", tokens if models else None),
    )
    if view.happened.items:
        echo()
        rows = [[str(event.version), moment(event.recorded_at), event.sentence] for event in view.happened.items]
        show_table(["VERSION", "RECORDED (UTC)", "WHAT HAPPENED"], rows, wrap=True)
    if view.happened.next_cursor:
        following = f"{view.thread_id} {view.happened.items[-1].version} {view.until.version}"
        echo(f"There are more: threadfold threads diff {following}", err=True)


def _either(given: int | datetime | None, name: str) -> PointInTime:
    """Make a point in time whose errors use the argument's name."""
    if isinstance(given, datetime):
        return PointInTime(None, given, name, name)
    return PointInTime(given, None, name, name)


def _place(point: PointView) -> str:
    at = f", {moment(point.recorded_at)} UTC" if point.recorded_at else ""
    return f"version {point.version}{at}, {point.status}"


def _value(change: ValueChange) -> str:
    match change.change:
        case "added":
            return f"is {to_json(change.after)}, which was not there"
        case "removed":
            return f"is gone; it was {to_json(change.before)}"
        case "changed":
            return f"is {to_json(change.after)}; it was {to_json(change.before)}"


def _numbers(counts: Struct) -> str:
    """Write the counts that are not zero."""
    found = {name.replace("_", " "): number for name, number in asdict(counts).items() if number}
    return ", ".join(f"{number:,} {name}" for name, number in found.items())
