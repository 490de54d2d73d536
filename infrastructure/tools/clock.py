"""`current_time`: the time in a time zone."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from domain.agents.tools import Tool, tool
from domain.errors import ToolError

TIMEOUT = 2.0


def clock_tool(now: Callable[[], datetime]) -> Tool:
    """Return the tool. `now` returns an aware datetime."""

    @tool(timeout=TIMEOUT, idempotent=True)
    async def current_time(
        timezone: Annotated[str, Field(description="An IANA name such as Europe/Berlin")] = "UTC",
    ) -> str:
        """Tell the current date, time and weekday in a time zone."""
        there = now().astimezone(_zone(timezone))
        return f"{there.isoformat(timespec='seconds')} ({there:%A}, {timezone})"

    return current_time


def _zone(name: str) -> tzinfo:
    if name.upper() in {"UTC", "Z", "GMT"}:
        return UTC  # works without a time zone database
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # also for names that are paths
        shown = name if len(name) <= 40 and name.isprintable() else "that"  # noqa: PLR2004
        raise ToolError(
            f"There is no time zone {shown}. Use an IANA name such as Europe/Berlin, America/New_York or UTC."
        ) from error
