"""Reads a thread's recorded events page by page, in either direction, across forks. Folds nothing."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from domain.errors import CorruptLog, UnknownThread
from domain.ids import DEFAULT_TENANT, START, Tenant, ThreadId, Version
from domain.log.hash_chain import Record
from domain.lru import Lru
from domain.ports.log import PAGE_BYTES, EventStore, ThreadRow, may_have_more
from domain.thread.codec import Recorded, decode
from domain.thread.events import ThreadForked

PAGE = 1_000
"""Events of a page, at most. A page also ends where it gets too large: see `EventStore`."""

AT_FIRST = 128
"""Events of the first page, where all are wanted. The size of later pages depends on how large these are."""

ORIGIN_BYTES = 400
"""Bytes that a cached origin takes."""


class PageSize:
    """How many events to read next. Pages grow, but if events are large, hardly beyond what fits on a page."""

    def __init__(self, first: int = AT_FIRST) -> None:
        """Set the size of the first page."""
        self.limit = min(first, PAGE)

    def is_last(self, sizes: Sequence[int], room: int = PAGE_BYTES) -> bool:
        """Say whether a page is the last one, by the characters of its payloads. Sets the limit of the next page."""
        asked, found = self.limit, len(sizes)
        self.limit = max(2 * found, 1) if found < asked else min(max(2 * found, AT_FIRST), PAGE)
        return not may_have_more(sizes, asked, room)

    def adapt(self, page: Sequence[Record]) -> None:
        """Set the limit of the next page, for a reader that reads until a page is empty."""
        self.is_last([len(record.payload) for record in page])


class Origin(Struct, frozen=True):
    """Where a fork begins: its parent has the events up to `version`."""

    parent: ThreadId
    version: Version


@dataclass(eq=False)
class ThreadReader:
    """Reads events. Caches the origins of `keep` threads: an origin never changes."""

    store: EventStore
    keep: int = field(default=1_000, kw_only=True)

    def __post_init__(self) -> None:
        """Create an empty cache."""
        self._origins = Lru[ThreadId, tuple[Origin | None]](ORIGIN_BYTES * self.keep)

    async def row(self, thread_id: ThreadId, tenant: Tenant = DEFAULT_TENANT) -> ThreadRow:
        """Return where the thread ends.

        Raises:
            UnknownThread: the thread has no events, or belongs to another tenant.
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
        """Return a page of events with `after < version <= upto`; for a fork, its parent's come first.

        The page has at most `limit` events, and ends after `room` bytes. Only an empty page means that none follow.
        """
        owner, end = thread_id, upto
        forks: list[tuple[ThreadId, Version | None]] = []
        while True:
            known = self._origins.get(owner)
            origin = known[0] if known else None
            if origin is None or after >= origin.version:  # it may be a fork whose origin is not cached yet
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
        """Return the events of some versions; for a fork, also those that its parent has."""
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

        `first` is the size of the first page, for a caller that may stop soon. Later pages are larger.
        """
        size, last = PageSize(first), False
        while not last and (page := await self.history(thread_id, after, upto, size.limit, room)):
            last = size.is_last([recorded.size for recorded in page], room)
            for recorded in page:
                yield recorded
            after = page[-1].version
            last = last or after == upto

    async def records(
        self, thread_id: ThreadId, after: Version = START, upto: Version | None = None
    ) -> AsyncIterator[Record]:
        """Yield the thread's own records with `after < version <= upto`, as they are stored."""
        size, last = PageSize(), False
        while not last and (page := await self.store.read(thread_id, after, upto, size.limit)):
            for record in page:
                yield record
            after, last = page[-1].version, size.is_last([len(record.payload) for record in page])

    async def pages_back(
        self, thread_id: ThreadId, after: Version, upto: Version, first: int = PAGE, room: int = PAGE_BYTES
    ) -> AsyncIterator[Sequence[Recorded]]:
        """Yield all events with `after < version <= upto` in pages: the last page first, each page in ascending order.

        Versions have no gaps, so the bounds of the previous page are known, and no store has to read backwards. If a
        page was cut because of its size, it is read again with closer bounds.
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
        """Return where a fork begins; None if the thread is no fork, or does not exist. Raises `CorruptLog`."""
        if known := self._origins.get(thread_id):
            return known[0]
        row = await self.store.thread(thread_id)
        if row is None:
            return None
        origin = None
        if row.base:
            (first,) = await self.store.read(thread_id, row.base, limit=1)
            event = decode(first).event
            if not isinstance(event, ThreadForked):
                raise CorruptLog(f"{thread_id}: it begins at version {first.version} without a ThreadForked")
            origin = Origin(ThreadId(event.parent), Version(event.at_version))
        self._origins.put(thread_id, (origin,), ORIGIN_BYTES)
        return origin


def _decoded(page: Sequence[Record], room: int) -> tuple[list[Recorded], bool]:
    """Decode a page. Returns also whether it is whole, and not cut at `room` bytes."""
    whole = not may_have_more([len(record.payload) for record in page], None, room)
    return [decode(record) for record in page], whole
