"""Windows of time, in UTC, over which spending is added up. Each window lies within the longer ones."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, TypeAlias

Window: TypeAlias = Literal["hour", "day", "month", "lifetime"]

Span: TypeAlias = Literal["turn", "hour", "day", "month", "lifetime"]
"""What a limit applies to: a turn, regardless of its duration, or a window."""

WINDOWS: tuple[Window, ...] = ("hour", "day", "month", "lifetime")
"""From the shortest to the longest."""

SPANS: tuple[Span, ...] = ("turn", *WINDOWS)
"""From the narrowest to the widest."""

EVER = datetime(1970, 1, 1, tzinfo=UTC)
"""The start of the lifetime window, which never ends."""

LAST = datetime.max.replace(tzinfo=UTC)
"""The end of windows that would end after the last representable instant."""


_LONGEST = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=31)}


def start_of(window: Window, at: datetime) -> datetime:
    """Return the start of the window that contains an instant."""
    return starts_of(at)[window]


@lru_cache(maxsize=128)  # events of one append have the same time, so this is asked many times in a row
def starts_of(at: datetime) -> Mapping[Window, datetime]:
    """Return the start of each window that contains an instant."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return {"hour": hour, "day": hour.replace(hour=0), "month": hour.replace(day=1, hour=0), "lifetime": EVER}


def end_of(window: Window, at: datetime) -> datetime | None:
    """Return the exclusive end of the window that contains an instant; None for the lifetime window."""
    if window == "lifetime":
        return None
    start = start_of(window, at)
    try:
        return start_of(window, start + _LONGEST[window])
    except OverflowError:
        return LAST
