"""A cache of folded threads. A thread that is not cached is folded again from the log."""

from collections.abc import Hashable, Iterable
from datetime import datetime

from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.budget.prices import Prices
from domain.ids import START, Tenant, ThreadId, Version
from domain.log.hash_chain import Record
from domain.lru import Lru
from domain.thread.state import Running
from projections.engine.budget_overruns import find_overrun
from projections.engine.projection import FoldedThread

MAX_THREADS = 2_000
"""Threads that are cached."""

MAX_THREAD_BYTES = 32_000_000
"""What they may take in memory, approximately."""


class ThreadCache:
    """The threads of recent batches. Each `place`, such as a group of projections, has its own."""

    def __init__(self, repository: ThreadRepository, prices: Prices) -> None:
        """Load threads from a repository."""
        self._repository = repository
        self._prices = prices
        self._threads = Lru[tuple[Hashable, ThreadId], FoldedThread](MAX_THREAD_BYTES, MAX_THREADS)

    def get(self, place: Hashable, record: Record) -> FoldedThread | None:
        """Return a thread right before a record, if it is cached."""
        key = place, record.thread_id
        folded = self._threads.get(key)
        if folded is None or folded.head.version != record.version - 1:
            return None
        self._threads.put(key, folded, folded.weigh())
        return folded

    async def load_before(self, place: Hashable, record: Record) -> FoldedThread:
        """Return a thread right before a record, and cache it."""
        folded = self.get(place, record)
        if folded is None:
            folded = await self.load_at(record.thread_id, record.tenant, Version(record.version - 1))
            self._threads.put((place, record.thread_id), folded, folded.weigh())
        return folded

    def forget(self, place: Hashable, records: Iterable[Record]) -> None:
        """Drop the threads of records: the rows that they were folded into may not have been written."""
        for thread_id in {record.thread_id for record in records}:
            self._threads.discard((place, thread_id))

    async def load_at(self, thread_id: ThreadId, tenant: Tenant, version: Version) -> FoldedThread:
        """Fold a thread up to a version. Raises `CorruptLog` if it cannot be read.

        The events of a turn in progress are folded one by one, because its start and its overrun lie among them.
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
            folded.apply(recorded, loaded.head.hash, self._prices)  # only the last hash matters
        return folded

    async def _idle(self, loaded: LoadedThread, opened_at: datetime) -> FoldedThread:
        over = await find_overrun(self._repository, loaded, self._prices)
        return FoldedThread(loaded.thread_id, loaded.tenant, loaded.head, loaded.state, opened_at, overrun=over)
