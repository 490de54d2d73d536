"""Wake-ups: messages between processes after a commit."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Tenant, ThreadId, Version, WorkerId


class TurnReady(Struct, frozen=True, tag="ready"):
    """A thread has something to run: a turn began, or an approval was decided."""

    thread_id: ThreadId
    tenant: Tenant


class NewEvents(Struct, frozen=True, tag="moved"):
    """A thread has new events, up to a version. `ended`: a turn may have ended with one of them."""

    thread_id: ThreadId
    version: Version
    ended: bool = True


class Delta(Struct, frozen=True, tag="spoken"):
    """A piece of the answer that a model is writing after a version. `offset` counts characters."""

    thread_id: ThreadId
    version: Version
    offset: int
    text: str


class Withdrawn(Struct, frozen=True, tag="retracted"):
    """The pieces after a version are void: the attempt failed."""

    thread_id: ThreadId
    version: Version


class Watched(Struct, frozen=True, tag="watched"):
    """The sending process has subscribers that want the pieces of a thread's answers."""

    thread_id: ThreadId


class SharesChanged(Struct, frozen=True, tag="shares"):
    """A worker has started, or released shards. Workers with too few may claim them."""


class Lent(Struct, frozen=True, tag="lent"):
    """A worker may run turns of another worker's threads; see `domain.ports.loans`."""

    worker: WorkerId


Wakeup: TypeAlias = SharesChanged | Lent | TurnReady | NewEvents | Delta | Withdrawn | Watched


class Wakeups(Protocol):
    """Sends wake-ups between processes. They may be lost or late: that only costs latency."""

    def send(self, wakeup: Wakeup) -> None:
        """Send a wake-up to the other processes soon, perhaps with others in one batch. Never waits, never fails."""

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        """Call a listener for each wake-up of other processes. Returns a function that stops that."""

    async def close(self) -> None:
        """Send what is queued, if possible, and disconnect."""
