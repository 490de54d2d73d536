"""What processes tell each other after a commit."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Tenant, ThreadId, Version, WorkerId


class TurnReady(Struct, frozen=True, tag="ready"):
    """A thread has something to run: a turn began, or a person decided something about it."""

    thread_id: ThreadId
    tenant: Tenant


class Moved(Struct, frozen=True, tag="moved"):
    """A thread has new events, up to a version; perhaps a turn `ended` with one of them."""

    thread_id: ThreadId
    version: Version
    ended: bool = True


class Spoken(Struct, frozen=True, tag="spoken"):
    """A piece of an answer that a model is writing, after a version of its thread. `offset` counts characters."""

    thread_id: ThreadId
    version: Version
    offset: int
    text: str


class Retracted(Struct, frozen=True, tag="retracted"):
    """What was spoken after a version came to nothing: the attempt failed."""

    thread_id: ThreadId
    version: Version


class Watched(Struct, frozen=True, tag="watched"):
    """Somebody in this process wants to hear what is spoken in a thread."""

    thread_id: ThreadId


class SharesChanged(Struct, frozen=True, tag="shares"):
    """A worker came, or gave shards back: who has room may claim them."""


class Lent(Struct, frozen=True, tag="lent"):
    """A worker may run turns of another worker's threads; see `domain.ports.loans`."""

    worker: WorkerId


Wakeup: TypeAlias = SharesChanged | Lent | TurnReady | Moved | Spoken | Retracted | Watched


class Wakeups(Protocol):
    """Words between processes, after the commit. They may be lost or come late: that costs latency, no more."""

    def send(self, wakeup: Wakeup) -> None:
        """Tell the other processes soon, together with what else there is to tell. Never waits, never fails."""

    def listen(self, listener: Callable[[Wakeup], None]) -> Callable[[], None]:
        """Hear what other processes send, from now on. Call what is returned to stop."""

    async def close(self) -> None:
        """Send what is left, if that is possible, and let go."""
