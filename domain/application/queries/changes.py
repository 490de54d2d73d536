"""What happened in a thread between two versions: in sentences, and in numbers."""

from collections.abc import AsyncIterator
from datetime import datetime

from msgspec import Struct

from domain.application.thread_reader import AT_FIRST
from domain.application.thread_repository import ThreadRepository
from domain.ids import ThreadId, Version
from domain.lru import Lru
from domain.thread.codec import Recorded
from domain.thread.describe import describe, refers_to
from domain.thread.diff import Counts, Tally
from domain.thread.events import ApprovalRequested, Event, ToolRequested

MAX_CACHED_BYTES = 4_000_000
"""Bytes of cached events: later events refer to them."""

ENTRY_BYTES = 300
"""Bytes of a cached event in addition to its payload."""


class DescribedEvent(Struct, frozen=True):
    """An event in words."""

    version: Version
    recorded_at: datetime
    type: str
    sentence: str


class ChangesBetween:
    """A thread's events after one version and up to another."""

    def __init__(self, repository: ThreadRepository, thread_id: ThreadId, after: Version, upto: Version) -> None:
        self._repository = repository
        self._thread_id = thread_id
        self._after = after
        self._upto = upto
        self._cache = Lru[Version, Event](MAX_CACHED_BYTES)

    async def counts(self, limit: int) -> tuple[Counts, Version]:
        """Count at most `limit` events. Also return the version of the last one."""
        tally = Tally()
        async for recorded, about in self._next(self._after, limit, AT_FIRST):
            tally.add(recorded.event, about)
        return tally.counts(), Version(min(self._upto, self._after + limit))

    async def sentences(self, after: Version, limit: int, first: int) -> AsyncIterator[DescribedEvent]:
        """Yield sentences for the next `limit` events after a version. The first read takes `first` of them."""
        async for recorded, about in self._next(after, limit, first):
            sentence = describe(recorded.event, about)
            yield DescribedEvent(recorded.version, recorded.recorded_at, type(recorded.event).__name__, sentence)

    async def _next(self, after: Version, limit: int, first: int) -> AsyncIterator[tuple[Recorded, Event | None]]:
        """Yield the next `limit` events, each with the event that it refers to."""
        upto = Version(min(self._upto, after + limit))
        if after >= upto:
            return
        async for recorded in self._repository.follow(self._thread_id, after, upto, first):
            if isinstance(recorded.event, ToolRequested | ApprovalRequested):  # later events may refer to it
                self._remember(recorded)
            yield recorded, await self._about(recorded.event)

    def _remember(self, recorded: Recorded) -> None:
        self._cache.put(recorded.version, recorded.event, ENTRY_BYTES + recorded.size)

    async def _about(self, event: Event) -> Event | None:
        """Return the event that an event refers to, which may be before the range."""
        version = refers_to(event)
        if version is None:
            return None
        if known := self._cache.get(Version(version)):
            return known
        found = await self._repository.history(self._thread_id, Version(version - 1), Version(version))
        if not found:
            return None
        self._remember(found[0])
        return found[0].event
