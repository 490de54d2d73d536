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

MAX_THREADS = 2_000
"""Threads that are kept."""

MAX_THREAD_BYTES = 32_000_000
"""What they may take in memory, about."""


class ThreadCache:
    """What a runner knows of threads. It may forget everything: the log has it."""

    def __init__(
        self,
        repository: ThreadRepository,
        prices: Prices,
        max_threads: int = MAX_THREADS,
        max_bytes: int = MAX_THREAD_BYTES,
    ) -> None:
        """Read threads through a repository."""
        self._repository = repository
        self._prices = prices
        self._threads = Lru[tuple[Hashable, ThreadId], FoldedThread](max_bytes, max_threads)

    def get(self, place: Hashable, record: Record) -> FoldedThread | None:
        """Return a thread right before a record, if it is in memory. What is kept in one `place` is not in another."""
        key = place, record.thread_id
        folded = self._threads.get(key)
        if folded is None or folded.head.version != record.version - 1:
            return None
        self._threads.put(key, folded, folded.weigh())
        return folded

    async def load_before(self, place: Hashable, record: Record) -> FoldedThread:
        """Return a thread right before a record, and keep it."""
        folded = self.get(place, record)
        if folded is None:
            folded = await self.load_at(record.thread_id, record.tenant, Version(record.version - 1))
            self._threads.put((place, record.thread_id), folded, folded.weigh())
        return folded

    def apply(self, folded: FoldedThread, record: Record) -> EventContext[Any]:
        """Go on with a record. Raises `CorruptLog` if it cannot be read, or cannot follow."""
        return folded.apply(decode(record), record.hash, self._prices)

    def forget(self, place: Hashable, thread_id: ThreadId) -> None:
        """Let a thread go: what it was told of may not have been written."""
        self._threads.discard((place, thread_id))

    async def load_at(self, thread_id: ThreadId, tenant: Tenant, version: Version) -> FoldedThread:
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
        folded = await self._idle(await self._repository.load_at(thread_id, begun, tenant), opened_at)
        async for recorded in self._repository.follow(thread_id, folded.head.version, version):
            folded.apply(recorded, loaded.head.hash, self._prices)  # the hash matters at the end only
        return folded

    async def _idle(self, loaded: LoadedThread, opened_at: datetime) -> FoldedThread:
        over = await overrun_of(self._repository, loaded, self._prices)
        return FoldedThread(loaded.thread_id, loaded.tenant, loaded.head, loaded.state, opened_at, overrun=over)
