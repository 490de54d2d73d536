"""Wake-ups within a process: for a log in memory, and for tests with several endpoints."""

from domain.ports.wakeups import Wakeup
from infrastructure.wakeups import Listeners


class MemoryWakeups(Listeners):
    """A `Wakeups` that reaches the other endpoints of its list at once."""

    def __init__(self, endpoints: "list[MemoryWakeups] | None" = None) -> None:
        """Join other endpoints. Without them, this one is alone."""
        super().__init__()
        self._endpoints = [] if endpoints is None else endpoints
        self._endpoints.append(self)

    def send(self, wakeup: Wakeup) -> None:
        for endpoint in self._endpoints:
            if endpoint is not self:
                endpoint.hear(wakeup)

    async def close(self) -> None:
        self._endpoints.remove(self)
