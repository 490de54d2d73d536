"""Rates of requests: a token bucket for each key and each tenant."""

from collections.abc import Hashable, Sequence
from math import ceil

from msgspec import Struct

from domain.lru import Lru

MAX_BUCKETS = 100_000
"""Buckets that are kept. One that was evicted begins full again, which needs as many busier ones in between."""


class Rate(Struct, frozen=True):
    """A rate: `per_second` requests a second, and `burst` at once after a pause."""

    per_second: float
    burst: int


class RateState(Struct, frozen=True):
    """How a bucket stands after a request, for the headers of its answer. Times are in seconds."""

    limit: int
    remaining: int
    reset: int
    """Until the bucket is full again."""
    retry_after: int
    """Until the next request is allowed; 0 if this one was."""

    @property
    def allowed(self) -> bool:
        """Whether the request was allowed."""
        return self.retry_after == 0


class RateLimiter:
    """Token buckets by name. A request takes one token of each of its buckets, or none if one of them is empty."""

    def __init__(self) -> None:
        self._buckets: Lru[Hashable, tuple[float, float]] = Lru(MAX_BUCKETS, MAX_BUCKETS)

    def take(self, buckets: Sequence[tuple[Hashable, Rate]], now: float) -> RateState | None:
        """Count a request, and return the state of its emptiest bucket; None without buckets. `now` is in seconds."""
        levels = [(name, rate, *self._level(name, rate, now)) for name, rate in buckets]
        allowed = all(level >= 1 for _, _, level, _ in levels)
        states = []
        for name, rate, level, at in levels:
            left = level - 1 if allowed else level
            self._buckets.put(name, (left, at), 1)
            wait = 0 if allowed or level >= 1 else max(1, ceil((1 - level) / rate.per_second))
            states.append(RateState(rate.burst, int(left), ceil((rate.burst - left) / rate.per_second), wait))
        return min(states, key=lambda state: (-state.retry_after, state.remaining), default=None)

    def _level(self, name: Hashable, rate: Rate, now: float) -> tuple[float, float]:
        """Return a bucket's tokens, and when it had them: never earlier than before, whatever the clock does."""
        level, at = self._buckets.get(name) or (float(rate.burst), now)
        return min(rate.burst, level + max(0.0, now - at) * rate.per_second), max(now, at)
