"""A thread's events as they were recorded, from either end, over forks, page by page. Nothing is folded here."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from msgspec import Struct

from domain.errors import CorruptLog, UnknownThread
from domain.ids import DEFAULT_TENANT, START, Tenant, ThreadId, Version
from domain.log.hash_chain import Record
from domain.lru import Lru
from domain.ports.log import PAGE_BYTES, EventStore, ThreadRow, may_have_more
from domain.thread.codec import Recorded, decode
from domain.thread.events import ThreadForked

PAGE = 1_000
"""Events read at a time, at most; a page also ends where it gets too large: see `EventStore`."""

AT_FIRST = 128
"""Events that are asked for at first where all are wanted: large ones are weighed, and then fewer asked for."""


ORIGIN = 400
"""Bytes that it takes to remember where a thread comes from."""


class PageSize:
    """How many events to ask for next: more and more, but where they are large not many more than fit on a page."""

    def __init__(self, first: int = AT_FIRST) -> None:
        """Begin with so many."""
        self.limit = min(first, PAGE)

    def is_last(self, sizes: Sequence[int], room: int = PAGE_BYTES) -> bool:
        """Say whether nothing follows on a page of payloads of these characters; set the limit of the next one."""
        asked, found = self.limit, len(sizes)
        self.limit = max(2 * found, 1) if found < asked else min(max(2 * found, AT_FIRST), PAGE)
        return not may_have_more(sizes, asked, room)

    def adapt(self, page: Sequence[Record]) -> None:
        """Set the limit of the next page, for a reader who reads on until a page is empty."""
        self.is_last([len(record.payload) for record in page])


class Origin(Struct, frozen=True):
    """Where a fork left another thread, which has the events up to `version` itself."""

    parent: ThreadId
    version: Version


class ThreadReader:
    """Reads events. Remembers of the last threads where they come from: that never changes."""

    def __init__(self, store: EventStore, keep: int = 1_000) -> None:
        """Read from a store."""
        self.store = store
        self._origins = Lru[ThreadId, tuple[Origin | None]](ORIGIN * keep)

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
        self,
        thread_id: ThreadId,
        after: Version = START,
        upto: Version | None = None,
        limit: int = PAGE,
        room: int = PAGE_BYTES,
    ) -> Sequence[Recorded]:
        """Return a page of events with `after < version <= upto`: of a fork, its parent's first.

        At most `limit`, and no more after `room` bytes; only an empty page says that there are no further ones.
        """
        owner, end = thread_id, upto
        forks: list[tuple[ThreadId, Version | None]] = []
        while True:
            known = self._origins.get(owner)
            origin = known[0] if known else None
            if origin is None or after >= origin.version:  # it may be a fork that nobody has looked at here yet
                found, whole = _decoded(await self.store.read(owner, after, end, limit, room), room)
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
            if not whole or len(found) >= limit:
                break
            reached = found[-1].version if found else after
            own, whole = _decoded(await self.store.read(fork, reached, its_end, limit - len(found), room), room)
            found += own
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
        self,
        thread_id: ThreadId,
        after: Version = START,
        upto: Version | None = None,
        first: int = AT_FIRST,
        room: int = PAGE_BYTES,
    ) -> AsyncIterator[Recorded]:
        """Yield all events with `after < version <= upto`, reading page by page.

        A caller that may stop soon says how many events to read at `first`; later pages are larger.
        """
        size, last = PageSize(first), False
        while not last and (page := await self.history(thread_id, after, upto, size.limit, room)):
            last = size.is_last([recorded.size for recorded in page], room)
            for recorded in page:
                yield recorded
            after = page[-1].version
            last = last or after == upto

    async def records(self, thread_id: ThreadId, after: Version) -> AsyncIterator[Record]:
        """Yield all records of the thread's own after a version, as they are stored."""
        size, last = PageSize(), False
        while not last and (page := await self.store.read(thread_id, after, None, size.limit)):
            for record in page:
                yield record
            after, last = page[-1].version, size.is_last([len(record.payload) for record in page])

    async def pages_back(
        self, thread_id: ThreadId, after: Version, upto: Version, first: int = PAGE, room: int = PAGE_BYTES
    ) -> AsyncIterator[Sequence[Recorded]]:
        """Yield all events with `after < version <= upto` in pages, the last page first, each in its own order.

        Versions have no gaps, so that the page before one is known by its bounds, and no store has to read backwards.
        Where less of it fits than lies between its bounds, they are drawn closer.
        """
        size = min(first, PAGE)
        while upto > after:
            begin = Version(max(upto - size, after))
            page = await self.history(thread_id, begin, upto, size, room)
            if page and page[-1].version < upto and len(page) < size:
                size = min(len(page), max(size // 2, 1))
                continue
            yield page
            upto, size = begin, min(2 * size, PAGE)

    async def origin(self, thread_id: ThreadId) -> Origin | None:
        """Return where a fork comes from; None for a thread of its own, or none."""
        if known := self._origins.get(thread_id):
            return known[0]
        row = await self.store.thread(thread_id)
        if row is None:
            return None
        origin = None
        if row.base:
            (first,) = await self.store.read(thread_id, row.base, limit=1)
            origin = origin_of(decode(first))
        self._origins.put(thread_id, (origin,), ORIGIN)
        return origin


def _decoded(page: Sequence[Record], room: int) -> tuple[list[Recorded], bool]:
    """Decode a page of a thread's own events, and say whether it was not cut because of their size."""
    whole = not may_have_more([len(record.payload) for record in page], None, room)
    return [decode(record) for record in page], whole


def origin_of(first: Recorded) -> Origin:
    """Read where a fork comes from off its first event."""
    if not isinstance(first.event, ThreadForked):
        raise CorruptLog(f"{first.thread_id}: it begins at version {first.version} with no ThreadForked")
    return Origin(ThreadId(first.event.parent), Version(first.event.at_version))
