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

KNOWN = 4_000_000
"""Bytes of events that are kept because later ones refer to them."""

ENTRY = 300
"""Bytes that each takes beside its payload."""


class DescribedEvent(Struct, frozen=True):
    """An event in words."""

    version: Version
    recorded_at: datetime
    type: str
    sentence: str


class ChangesBetween:
    """A thread's events after one version and up to another."""

    def __init__(self, repository: ThreadRepository, thread_id: ThreadId, after: Version, upto: Version) -> None:
        """Look at a part of a thread."""
        self._repository = repository
        self._thread_id = thread_id
        self._after = after
        self._upto = upto
        self._known = Lru[Version, Event](KNOWN)

    async def counts(self, limit: int) -> tuple[Counts, Version]:
        """Count at most `limit` events, and say up to which version they go."""
        upto = Version(min(self._upto, self._after + limit))
        tally = Tally()
        if self._after >= upto:
            return tally.counts(), upto
        async for recorded in self._repository.follow(self._thread_id, self._after, upto, AT_FIRST):
            self._remember(recorded)
            tally.add(recorded.event, await self._about(recorded.event))
        return tally.counts(), upto

    async def sentences(self, after: Version, limit: int, first: int) -> AsyncIterator[DescribedEvent]:
        """Say what the next `limit` events after a version are, reading `first` of them at first."""
        upto = Version(min(self._upto, after + limit))
        if after >= upto:
            return
        async for recorded in self._repository.follow(self._thread_id, after, upto, first):
            self._remember(recorded)
            event = recorded.event
            sentence = describe(event, await self._about(event))
            yield DescribedEvent(recorded.version, recorded.recorded_at, type(event).__name__, sentence)

    def _remember(self, recorded: Recorded) -> None:
        """Keep an event that later ones may refer to."""
        if isinstance(recorded.event, ToolRequested | ApprovalRequested):
            self._known.put(recorded.version, recorded.event, ENTRY + recorded.size)

    async def _about(self, event: Event) -> Event | None:
        """Return the event that an event refers to; it may lie before the part that is looked at."""
        version = refers_to(event)
        if version is None:
            return None
        if known := self._known.get(Version(version)):
            return known
        found = await self._repository.history(self._thread_id, Version(version - 1), Version(version))
        if not found:
            return None
        self._known.put(Version(version), found[0].event, ENTRY + found[0].size)
        return found[0].event
