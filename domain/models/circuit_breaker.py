"""A circuit breaker: who fails again and again is left alone for a while, and then tried by one call at a time."""

from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """After `after` failures in a row, nobody is let through for `rest` seconds; then one call, to see.

    The caller brings the time, in seconds of any clock that only goes forward.
    """

    after: int = 3
    rest: float = 30.0
    _failures: int = field(init=False, default=0)
    _until: float = field(init=False, default=0.0)

    def rests(self, now: float) -> bool:
        """Say whether a call would not be let through."""
        return self._failures >= self.after and now < self._until

    def admits(self, now: float) -> bool:
        """Let a call through, or not.

        The one that comes after the rest keeps all others out for another rest. So one that never reports back,
        because it was cancelled, keeps them out no longer than that.
        """
        if self.rests(now):
            return False
        if self._failures >= self.after:
            self._until = now + self.rest
        return True

    def succeeded(self) -> None:
        """Take note of an answer: everybody is let through."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """Take note of a failure."""
        self._failures += 1
        self._until = now + self.rest
