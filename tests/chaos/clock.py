"""A process whose clock is wrong: `CHAOS_CLOCK_AHEAD` says by how many seconds. Called by the agents of `innocent`."""

import os
from datetime import UTC, datetime, timedelta

from api.runtime.stores import SystemClock

AHEAD = "CHAOS_CLOCK_AHEAD"


def shift() -> None:
    """Set the process's clock, if that is asked for: only that of Threadfold; timers go on as they do."""
    by = timedelta(seconds=float(os.environ.get(AHEAD, "0")))

    def now(self: SystemClock) -> datetime:
        return datetime.now(UTC) + by

    if by:
        setattr(SystemClock, "now", now)  # noqa: B010  (a plain assignment is refused by mypy)
