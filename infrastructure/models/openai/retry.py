"""When to ask an endpoint again, and how long to wait before."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

_WORTH_ANOTHER = frozenset({408, 429, 500, 502, 503, 504, 529})


class RetryPolicy(Struct, frozen=True):
    """At most `attempts` requests; before each further one a random wait below a bound that doubles. In seconds.

    Where no connection comes about, at most `connect_attempts`: who listens nowhere seldom listens a second later.
    """

    attempts: int = 3
    connect_attempts: int = 2
    base: float = 0.5
    cap: float = 8.0
    retry_after_cap: float = 30.0

    def wait(self, attempt: int, retry_after: float | None, random: Callable[[], float]) -> float:
        """Return how long to wait after attempt number `attempt` (from 1): full jitter, or more if so asked."""
        jittered = random() * min(self.cap, self.base * 2.0 ** (attempt - 1))
        return jittered if retry_after is None else max(jittered, min(retry_after, self.retry_after_cap))


def worth_another(status: int, headers: Mapping[str, str]) -> bool:
    """Say whether the same request may be answered next time. OpenAI says so itself, in a header."""
    said = headers.get("x-should-retry")
    return said == "true" if said in {"true", "false"} else status in _WORTH_ANOTHER


def seconds_asked(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the wait that Retry-After asks for, in seconds or as an HTTP date; None if it asks for none."""
    value = headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdecimal() and value.isascii():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
