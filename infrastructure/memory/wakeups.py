"""Wake-ups within a process: for a log in memory, and for tests with several endpoints."""

import logging
from collections.abc import Callable

from domain.ports.wakeups import Wakeup

_log = logging.getLogger(__name__)


class Hub:
    """Connects endpoints."""

    def __init__(self) -> None:
        self.endpoints: list[MemoryWakeups] = []


class MemoryWakeups:
    """A `Wakeups` that reaches the other endpoints of its hub at once."""

    def __init__(self, hub: Hub | None = None) -> None:
        """Join a hub. Without one, no other endpoint hears this one."""
        self._hub = hub or Hub()
        self._hub.endpoints.append(self)
        self._listeners: list[Callable[[Wakeup], None]] = []

    def send(self, wakeup: Wakeup) -> None:
        for endpoint in self._hub.endpoints:
            if endpoint is not self:
                endpoint.hear(wakeup)

    def hear(self, wakeup: Wakeup) -> None:
        for listener in list(self._listeners):
            try:
                listener(wakeup)
            except Exception:  # noqa: BLE001  (the other listeners must still get it)
                _log.exception("A listener failed at %r", wakeup)

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def close(self) -> None:
        self._hub.endpoints.remove(self)
