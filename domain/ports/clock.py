"""The time."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The time now."""

    def now(self) -> datetime:
        """Return an aware datetime in UTC."""
