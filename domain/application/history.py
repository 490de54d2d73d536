"""A thread's events as they were recorded, from either end, over forks, page by page. Nothing is folded here."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from msgspec import Struct

from domain.codec import Recorded, decode
from domain.errors import CorruptLog, UnknownThread
from domain.events import ThreadForked
from domain.ids import DEFAULT_TENANT, START, Tenant, ThreadId, Version
from domain.ports.log import EventStore, ThreadRow

PAGE = 1_000
"""Events read at a time."""


class Origin(Struct, frozen=True):
    """Where a fork left another thread, which has the events up to `version` itself."""

    parent: ThreadId
    version: Version


class History:
    """Reads events. Remembers of the last threads where they come from: that never changes."""

    def __init__(self, store: EventStore, keep: int = 1_000) -> None:
        """Read from a store."""
        self.store = store
        self._keep = keep
        self._origins: OrderedDict[ThreadId, Origin | None] = OrderedDict()

    async def row(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> ThreadRow:
        """Return where the thread ends.

        Raises:
            UnknownThread: it has no events, or belongs to another tenant.
        """
        row = await self.store.thread(thread_id)
        if row is None or row.tenant != tenant:
            raise UnknownThread(thread_id)
        return row

    async def history(
        self, thread_id: ThreadId, after: Version = START, upto: Version | None = None, limit: int = PAGE
    ) -> Sequence[Recorded]:
        """Return a page of events with `after < version <= upto`: of a fork, its parent's first."""
        owner, end = thread_id, upto
        forks: list[tuple[ThreadId, Version | None]] = []
        while True:
            origin = self._origins.get(owner)
            if origin is None or after >= origin.version:  # it may be a fork that nobody has looked at here yet
                found = [*await self._own(owner, after, end, limit)]
                if found and found[0].version == after + 1:
                    break
                origin = await self.origin(owner)
                if origin is None or after >= origin.version:
                    break
            if end is None or end > origin.version:
                forks.append((owner, end))
                end = origin.version
            owner = origin.parent
        for fork, its_end in reversed(forks):
            if len(found) < limit:
                reached = found[-1].version if found else after
                found += await self._own(fork, reached, its_end, limit - len(found))
        return found

    async def at(self, thread_id: ThreadId, versions: Collection[int]) -> Mapping[int, Recorded]:
        """Return the events of some versions, of a fork also those that its parent has."""
        found: dict[int, Recorded] = {}
        missing = set(versions)
        while missing:
            found |= {record.version: decode(record) for record in await self.store.read_at(thread_id, missing)}
            missing -= found.keys()
            if not missing or (origin := await self.origin(thread_id)) is None:
                break
            missing = {version for version in missing if version <= origin.version}
            thread_id = origin.parent
        return found

    async def follow(
        self, thread_id: ThreadId, after: Version = START, upto: Version | None = None, first: int = PAGE
    ) -> AsyncIterator[Recorded]:
        """Yield all events with `after < version <= upto`, reading page by page.

        Whoever may stop soon says how many events to read at `first`; later pages are larger.
        """
        size = min(first, PAGE)
        while page := await self.history(thread_id, after, upto, size):
            for recorded in page:
                yield recorded
            if len(page) < size:
                return
            after, size = page[-1].version, min(2 * size, PAGE)

    async def pages_back(
        self, thread_id: ThreadId, after: Version, upto: Version, first: int = PAGE
    ) -> AsyncIterator[Sequence[Recorded]]:
        """Yield all events with `after < version <= upto` in pages, the last page first, each in its own order.

        Versions have no gaps, so that the page before one is known by its bounds, and no store has to read backwards.
        """
        size = min(first, PAGE)
        while upto > after:
            begin = Version(max(upto - size, after))
            yield await self.history(thread_id, begin, upto, size)
            upto, size = begin, min(2 * size, PAGE)

    async def origin(self, thread_id: ThreadId) -> Origin | None:
        """Return where a fork comes from; None for a thread of its own, or none."""
        if thread_id in self._origins:
            return self._origins[thread_id]
        row = await self.store.thread(thread_id)
        if row is None:
            return None
        origin = None
        if row.base:
            (first,) = await self.store.read(thread_id, row.base, limit=1)
            origin = origin_of(decode(first))
        self._origins[thread_id] = origin
        if len(self._origins) > self._keep:
            self._origins.popitem(last=False)
        return origin

    async def _own(self, thread_id: ThreadId, after: Version, upto: Version | None, limit: int) -> Sequence[Recorded]:
        return [decode(record) for record in await self.store.read(thread_id, after, upto, limit)]


def origin_of(first: Recorded) -> Origin:
    """Read where a fork comes from off its first event."""
    if not isinstance(first.event, ThreadForked):
        raise CorruptLog(f"{first.thread_id}: it begins at version {first.version} with no ThreadForked")
    return Origin(ThreadId(first.event.parent), Version(first.event.at_version))
