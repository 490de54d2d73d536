"""Options of several commands, and the types of their values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any

import click

from api.services.history import PointInTime
from api.services.read_models import Filters
from domain.errors import InvalidInput
from domain.ids import MAX_VERSION
from projections.threads import OUTCOMES, REASONS


def instant(text: str) -> datetime:
    """Read an instant in ISO 8601, with its time zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an instant such as 2026-11-23T10:00:00Z") from None
    if at.tzinfo is None:
        raise click.BadParameter(f"{text!r} needs a time zone, such as 2026-11-23T10:00:00Z")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is outside the years 1 to 9999 in UTC") from None


def version_or_instant(text: str) -> int | datetime:
    """Read a version, or an instant in ISO 8601 with its time zone."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VERSION)):
        return click.IntRange(0, MAX_VERSION).convert(int(text), None, None)
    return instant(text)


@contextmanager
def named_as_options() -> Iterator[None]:
    """Report an invalid value by the name of its option."""
    try:
        yield
    except InvalidInput as error:
        raise click.BadParameter(error.why, param_hint=f"--{error.field.replace('_', '-')}") from error


instant_option = partial(click.option, type=instant, metavar="ISO")
limited = click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Rows at most.")


def back_to(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options --at-version and --at-time, which give the command its `place`."""

    @click.option("--at-version", type=click.IntRange(1, MAX_VERSION), help="As of this version.")
    @instant_option("--at-time", help="As of this instant, such as 2026-11-23T10:00:00Z.")
    @wraps(command)
    def at_place(*, at_version: int | None, at_time: datetime | None, **others: Any) -> None:
        if at_version is not None and at_time is not None:
            raise click.UsageError("--at-version and --at-time cannot be given together")
        command(place=PointInTime(at_version, at_time), **others)

    return at_place


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose threads, which give the command its `filters`."""

    @click.option("--search", help="Only threads with a message that has these words.")
    @click.option("--agent", help="Only threads of this agent.")
    @click.option(
        "--status", type=click.Choice(["idle", "running", "waiting"]), multiple=True, help="Only with this status."
    )
    @click.option("--outcome", type=click.Choice(OUTCOMES), multiple=True, help="Only those whose last turn ended so.")
    @click.option(
        "--reason", type=click.Choice(REASONS), multiple=True, help="Only those whose last turn has this reason."
    )
    @instant_option("--since", help="Only those with an event at this instant or later.")
    @instant_option("--until", help="Only those whose last event was before this instant.")
    @wraps(command)
    def of_threads(
        *,
        search: str | None,
        agent: str | None,
        status: tuple[str, ...],
        outcome: tuple[str, ...],
        reason: tuple[str, ...],
        since: datetime | None,
        until: datetime | None,
        **others: Any,
    ) -> None:
        if since is not None and until is not None and until < since:
            raise click.BadParameter("must not be before --since", param_hint="--until")
        filters = Filters(status, outcome, reason, graph=agent, search=search, active_since=since, active_before=until)
        command(filters=filters, **others)

    return of_threads
