"""Options of several commands, and the types of their values."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from api.services.history import PointInTime
from domain.ids import MAX_VERSION

Command = TypeVar("Command", bound=Callable[..., Any])


class Instant(click.ParamType[Any]):
    """An instant in ISO 8601, with its time zone."""

    name = "ISO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read an instant."""
        try:
            at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not an instant such as 2026-11-23T10:00:00Z", param, ctx)
        if at.tzinfo is None:
            self.fail(f"{value!r} needs a time zone, such as 2026-11-23T10:00:00Z", param, ctx)
        try:
            return at.astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is outside the years 1 to 9999 in UTC", param, ctx)


class VersionOrInstant(click.ParamType[Any]):
    """A version, or an instant in ISO 8601 with its time zone."""

    name = "VERSION|ISO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | datetime:
        """Read a version or an instant."""
        if isinstance(value, int | datetime):
            return value
        if value.isascii() and value.isdigit() and len(value) <= len(str(MAX_VERSION)):
            return click.IntRange(0, MAX_VERSION).convert(value, param, ctx)
        return Instant().convert(value, param, ctx)


limited = click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Rows at most.")


def back_to(command: Command) -> Command:
    """Add the options --at-version and --at-time, which `point` combines."""
    version = click.option("--at-version", type=click.IntRange(1, MAX_VERSION), help="As of this version.")
    instant = click.option("--at-time", type=Instant(), help="As of this instant, such as 2026-11-23T10:00:00Z.")
    return version(instant(command))


def point(at_version: int | None, at_time: datetime | None) -> PointInTime:
    """Return the point in time of the options."""
    if at_version is not None and at_time is not None:
        raise click.UsageError("--at-version and --at-time cannot be given together")
    return PointInTime(at_version, at_time)
