"""Windows of time, in UTC, in which what is spent is counted together. The shorter ones lie within the longer ones."""

from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

Window: TypeAlias = Literal["hour", "day", "month", "lifetime"]

Span: TypeAlias = Literal["turn", "hour", "day", "month", "lifetime"]
"""What a limit is for: a turn, however long it takes, or a window."""

WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "lifetime")
"""From the shortest to the longest."""

SPANS: tuple[Span, ...] = ("turn", *WINDOWS)
"""The same, for limits."""

EVER = datetime(1970, 1, 1, tzinfo=UTC)
"""Where the window that never ends begins."""

LAST = datetime.max.replace(tzinfo=UTC)
"""Where the last windows of the calendar end."""


def start_of(window: Window, at: datetime) -> datetime:
    """Return where the window begins that an instant lies in."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    match window:
        case "hour":
            return hour
        case "day":
            return hour.replace(hour=0)
        case "month":
            return hour.replace(day=1, hour=0)
        case "lifetime":
            return EVER


def end_of(window: Window, at: datetime) -> datetime | None:
    """Return where the window ends that an instant lies in, which is no part of it any more; None if it never does."""
    start = start_of(window, at)
    try:
        match window:
            case "hour":
                return start + timedelta(hours=1)
            case "day":
                return start + timedelta(days=1)
            case "month":
                return (start + timedelta(days=31)).replace(day=1)
            case "lifetime":
                return None
    except OverflowError:
        return LAST
