"""A circuit breaker: after repeated failures, no calls are made for a while, then one call at a time as a probe."""

from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Opens after `after` failures in a row. After `rest` seconds it admits one call as a probe.

    The caller passes the time `now`, in seconds of a monotonic clock.
    """

    after: int = 3
    rest: float = 30.0
    _failures: int = field(init=False, default=0)
    _until: float = field(init=False, default=0.0)

    def rests(self, now: float) -> bool:
        """Return whether the breaker is open: it would not admit a call."""
        return self._failures >= self.after and now < self._until

    def admits(self, now: float) -> bool:
        """Admit a call, or not.

        The probe keeps other calls out for another `rest` seconds. So a probe that never reports its outcome, because
        it was cancelled, does not keep them out for longer.
        """
        if self.rests(now):
            return False
        if self._failures >= self.after:
            self._until = now + self.rest
        return True

    def succeeded(self) -> None:
        """Record an answer: the breaker closes and admits all calls."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """Record a failure."""
        self._failures += 1
        self._until = now + self.rest
