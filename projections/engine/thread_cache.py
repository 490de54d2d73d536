"""Threads as they are told so far, kept in memory, and told again from the log where they are not."""

from collections.abc import Hashable
from datetime import datetime
from typing import Any

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Prices
from domain.ids import START, Tenant, ThreadId, Version
from domain.log.hash_chain import Record
from domain.lru import Lru
from domain.thread.codec import decode
from domain.thread.state import Running
from projections.engine.budget_overruns import overrun_of
from projections.engine.projection import EventContext, FoldedThread

KEEP = 2_000
"""Threads that are kept."""

KEEP_BYTES = 32_000_000
"""What they may take in memory, about."""


class ThreadCache:
    """What a runner knows of threads. It may forget everything: the log has it."""

    def __init__(
        self, repository: ThreadRepository, prices: Prices, keep: int = KEEP, keep_bytes: int = KEEP_BYTES
    ) -> None:
        """Read threads through a repository."""
        self._repository = repository
        self._prices = prices
        self._told = Lru[tuple[Hashable, ThreadId], FoldedThread](keep_bytes, keep)

    def known(self, place: Hashable, record: Record) -> FoldedThread | None:
        """Return a thread right before a record, if it is in memory. What is kept in one `place` is not in another."""
        key = place, record.thread_id
        story = self._told.get(key)
        if story is None or story.head.version != record.version - 1:
            return None
        self._told.put(key, story, story.weigh())
        return story

    async def before(self, place: Hashable, record: Record) -> FoldedThread:
        """Return a thread right before a record, and keep it."""
        story = self.known(place, record)
        if story is None:
            story = await self.at(record.thread_id, record.tenant, Version(record.version - 1))
            self._told.put((place, record.thread_id), story, story.weigh())
        return story

    def tell(self, story: FoldedThread, record: Record) -> EventContext[Any]:
        """Go on with a record. Raises `CorruptLog` if it cannot be read, or cannot follow."""
        return story.tell(decode(record), record.hash, self._prices)

    def forget(self, place: Hashable, thread_id: ThreadId) -> None:
        """Let a thread go: what it was told of may not have been written."""
        self._told.discard((place, thread_id))

    async def at(self, thread_id: ThreadId, tenant: Tenant, version: Version) -> FoldedThread:
        """Tell a thread up to a version, from the beginning of the turn that runs then: that is when it was idle.

        Raises `CorruptLog` if that cannot be read.
        """
        if version == START:
            return FoldedThread(thread_id, tenant)
        loaded = await self._repository.load_at(thread_id, version, tenant)
        opened_at = (await self._repository.row(thread_id, tenant)).opened_at
        if not isinstance(loaded.state, Running):
            return await self._idle(loaded, opened_at)
        begun = Version(loaded.state.turn.started - 1)
        story = await self._idle(await self._repository.load_at(thread_id, begun, tenant), opened_at)
        async for recorded in self._repository.follow(thread_id, story.head.version, version):
            story.tell(recorded, loaded.head.hash, self._prices)  # the hash matters at the end only
        return story

    async def _idle(self, loaded: LoadedThread, opened_at: datetime) -> FoldedThread:
        over = await overrun_of(self._repository, loaded, self._prices)
        return FoldedThread(loaded.thread_id, loaded.tenant, loaded.head, loaded.state, opened_at, overrun=over)
