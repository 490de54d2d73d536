"""The deadline of what a run does now. A cancellation brings it forward; waiting for the store does not count."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from domain.application.turns.user_code import Deadline

UNLIMITED_S = 3_600.0
"""Seconds that calls of models may take where no node's deadline applies."""


@dataclass
class Interruptible:
    """Has at most one deadline at a time: of the node that it runs, or of a pause."""

    stopping: bool = field(init=False, default=False)
    """Whether the turn is to be cancelled."""
    _deadline: Deadline | None = field(init=False, default=None)
    _inner: list[Deadline] = field(init=False, default_factory=list)
    """Deadlines of what the node waits for."""

    @property
    def time_left(self) -> float:
        """Seconds until the current node's deadline."""
        return self._deadline.left if self._deadline else UNLIMITED_S

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Do not count the time inside the block against the deadline, nor against those within it."""
        with ExitStack() as pauses:
            for deadline in (*([self._deadline] if self._deadline else ()), *self._inner):
                pauses.enter_context(deadline.paused())
            yield

    @contextmanager
    def within(self, deadline: Deadline) -> Iterator[Deadline]:
        """Have a deadline of a part of the node while the block runs."""
        self._inner.append(deadline)
        try:
            yield deadline
        finally:
            self._inner.remove(deadline)

    @contextmanager
    def interruptible(self, deadline: Deadline) -> Iterator[None]:
        """Let `stop` bring a deadline forward while the block runs."""
        self._deadline = deadline
        if self.stopping:
            deadline.end_now()
        try:
            yield
        finally:
            self._deadline = None

    def stop(self) -> None:
        """End what runs now, and what follows: the turn is to be cancelled."""
        self.stopping = True
        if self._deadline is not None:
            self._deadline.end_now()

    async def pause(self, seconds: float) -> None:
        """Wait, or until `stop`."""
        deadline = Deadline(seconds)
        with self.interruptible(deadline):
            await deadline.passed()
