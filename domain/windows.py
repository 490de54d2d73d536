"""Windows of time, in UTC, in which what is spent is counted together. The shorter ones lie within the longer ones."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, TypeAlias

Window: TypeAlias = Literal["hour", "day", "month", "lifetime"]

Span: TypeAlias = Literal["turn", "hour", "day", "month", "lifetime"]
"""What a limit is for: a turn, however long it takes, or a window."""

WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "lifetime")
"""From the shortest to the longest."""

SPANS: tuple[Span, ...] = ("turn", *WINDOWS)
"""The same, for limits."""

LIFETIME_START = datetime(1970, 1, 1, tzinfo=UTC)
"""Where the window that never ends begins."""

LAST = datetime.max.replace(tzinfo=UTC)
"""Where the last windows of the calendar end."""


def start_of(window: Window, at: datetime) -> datetime:
    """Return where the window begins that an instant lies in."""
    return starts_of(at)[window]


@lru_cache(maxsize=128)  # what happens at one instant is asked for many times, one time after the other
def starts_of(at: datetime) -> Mapping[Window, datetime]:
    """Return where each window begins that an instant lies in."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return {"hour": hour, "day": hour.replace(hour=0), "month": hour.replace(day=1, hour=0), "lifetime": LIFETIME_START}


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
