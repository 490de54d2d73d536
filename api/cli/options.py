"""Options of several commands, and the types of their values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial, wraps
from typing import Any

import click

from api.services.history import PointInTime
from domain.errors import InvalidInput
from domain.ids import MAX_VERSION


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
