"""Retries with exponential backoff and jitter: which failures are transient, and how long to wait."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from msgspec import Struct

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 529})


class RetryPolicy(Struct, frozen=True):
    """At most `attempts` requests. Before each retry, a random wait below a bound that doubles. In seconds.

    At most `connect_attempts` where no connection is made: an endpoint that does not listen rarely does a second later.
    """

    attempts: int = 3
    connect_attempts: int = 2
    base: float = 0.5
    cap: float = 8.0
    retry_after_cap: float = 30.0

    def wait(self, attempt: int, retry_after: float | None, random: Callable[[], float]) -> float:
        """Return the wait after attempt number `attempt` (from 1): full jitter, or longer if Retry-After says so."""
        jittered = random() * min(self.cap, self.base * 2.0 ** (attempt - 1))
        return jittered if retry_after is None else max(jittered, min(retry_after, self.retry_after_cap))

    def attempts_after(self, error: httpx.TransportError) -> int:
        """Return how many attempts a failed connection allows in all."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return min(self.connect_attempts, self.attempts)
        # before a response's head: mostly a server that starts, or a kept connection that it has closed
        return self.attempts if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError) else 1


def is_retryable(status: int, headers: Mapping[str, str]) -> bool:
    """Say whether a request with this status may succeed next time. OpenAI says so itself, in a header."""
    said = headers.get("x-should-retry")
    return said == "true" if said in {"true", "false"} else status in _RETRYABLE


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the wait that Retry-After asks for, in seconds or as an HTTP date; None if it asks for none."""
    value = headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdecimal() and value.isascii():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
