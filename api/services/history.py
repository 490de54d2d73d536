"""Threads as they were at a version or at an instant, and what happened between two of them."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from api.http.params import decode_cursor, encode_cursor, no_page
from api.schemas.events import EventView, event_view
from api.schemas.history import DiffView, point_view
from api.schemas.page import Page
from domain.application.queries import transcript
from domain.application.queries.changes import ChangesBetween, DescribedEvent
from domain.application.queries.transcript import TranscriptMessage
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.errors import InvalidInput
from domain.ids import DEFAULT_TENANT, MAX_VERSION, START, Tenant, ThreadId, Version
from domain.ports.log import ThreadRow
from domain.thread.diff import compare

PAGE_SIZE = 1_000_000
"""Bytes of JSON after which a page of messages or events ends, however many items were asked for."""

SCANNED = 10_000
"""Events among which a page of messages is looked for: however seldom anybody says anything, a page has its price."""

COUNTED = 10_000
"""Events that a diff counts, at most."""

AT_FIRST = 100
"""Events to read at first, and then more at a time: a few large ones may fill a page."""

Order: TypeAlias = Literal["asc", "desc"]
Reached = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
Item = TypeVar("Item", TranscriptMessage, EventView, DescribedEvent)


class HistoryCursor(Struct, frozen=True, array_like=True):
    """Where a page ended: its order, where to go on (after a version, or back from it), and the list's last version.

    `upto` is 0 where the list has no end: then it goes on with what happens meanwhile.
    """

    order: Order
    version: Reached
    upto: Reached = 0


class PointInTime(Struct, frozen=True):
    """A version, or an instant, or neither; and what the caller calls them."""

    version: int | None = None
    at: datetime | None = None
    version_field: str = "at_version"
    time_field: str = "at_time"

    @property
    def given(self) -> bool:
        """Whether it says anything."""
        return self.version is not None or self.at is not None


NOW = PointInTime()


class PageRequest(Struct, frozen=True):
    """Which page: of the thread as it was at `point` (now without one), going on at `place`, or where a cursor says."""

    limit: int
    place: HistoryCursor | None = None
    point: PointInTime = NOW
    order: Order = "asc"
    cursor: str | None = None


class ThreadHistory:
    """Queries about a thread's past. What one costs depends on its page, not on the thread's age."""

    def __init__(self, repository: ThreadRepository, tenant: Tenant = DEFAULT_TENANT) -> None:
        """Ask for a tenant."""
        self._repository = repository
        self._tenant = tenant

    async def state(self, thread_id: ThreadId, point: PointInTime = NOW) -> LoadedThread:
        """Return a thread as it is now, was at a version, or was at an instant.

        Raises `UnknownThread`, `InvalidInput`.
        """
        if not point.given:
            return await self._repository.existing(thread_id, self._tenant)
        _check(point)
        version = point.version
        if version is None:
            version = await self._repository.version_at(thread_id, _in_utc(point), self._tenant)
        if not 1 <= version <= MAX_VERSION:
            raise InvalidInput(point.version_field, f"must lie between 1 and {MAX_VERSION}")
        return await self._repository.load_at(thread_id, Version(version), self._tenant)

    async def messages(self, thread_id: ThreadId, asked: PageRequest) -> Page[TranscriptMessage]:
        """Read the transcript in pages. A page may end early, and the last one be empty."""
        of = pages_of("messages", self._tenant, thread_id, asked.point, asked.order)
        asked = _placed(asked, of)
        after, upto, listed = await self._bounds(thread_id, asked)
        if asked.order == "desc":
            enough = Version(max(upto - SCANNED, START))
            back = transcript.read_back(self._repository, thread_id, upto, enough=enough, first=AT_FIRST)
            shown, more = await _collected(back, asked.limit)
            last = shown[-1].version - 1 if shown else upto
            return _page(shown, asked, last if more else min(enough, last), listed, of)
        if after >= upto:
            return Page([], None)
        enough = Version(min(after + SCANNED, upto))
        told = transcript.read(self._repository, thread_id, after, upto, enough=enough, first=AT_FIRST)
        shown, more = await _collected(told, asked.limit)
        return _page(shown, asked, shown[-1].version if more else enough, listed, of, end=upto)

    async def events(self, thread_id: ThreadId, asked: PageRequest) -> Page[EventView]:
        """Read the log of a thread in pages."""
        of = pages_of("events", self._tenant, thread_id, asked.point, asked.order)
        asked = _placed(asked, of)
        after, upto, listed = await self._bounds(thread_id, asked)
        if asked.order == "desc":
            begin = Version(max(upto - asked.limit, START))
            shown, _ = await _collected(self._events_back(thread_id, begin, upto), asked.limit)
            return _page(shown, asked, shown[-1].version - 1 if shown else START, listed, of)
        if after >= upto:
            return Page([], None)
        end = Version(min(after + asked.limit, upto))
        shown, _ = await _collected(self._events(thread_id, after, end), asked.limit)
        return _page(shown, asked, shown[-1].version, listed, of, end=upto)

    async def diff(
        self, thread_id: ThreadId, since: PointInTime, until: PointInTime, limit: int, cursor: str | None = None
    ) -> DiffView:
        """Say what happened between two points: after the one and up to the other, which is now if it is not given.

        Raises `UnknownThread`, `InvalidInput`.
        """
        of = ("diff", self._tenant, thread_id, since, until)
        place = decode_cursor(cursor, HistoryCursor, of) if cursor is not None else None
        row = await self._repository.row(thread_id, self._tenant)
        begin, end = await self._begin(row, since), await self._end(row, until, place)
        if begin > end:
            field = since.time_field if since.version is None else since.version_field
            raise InvalidInput(field, f"lies at version {begin}, which is after the end at version {end}")
        after = begin if place is None else Version(place.version)
        if not begin <= after <= end:
            raise no_page()
        was, now = await self._at(thread_id, begin), await self._at(thread_id, end)
        between = ChangesBetween(self._repository, thread_id, begin, end)
        counts, counted = await between.counts(COUNTED)
        shown, _ = await _collected(between.sentences(after, limit, AT_FIRST), limit)
        reached = shown[-1].version if shown else end
        return DiffView(
            thread_id=thread_id,
            since=point_view(was),
            until=point_view(now),
            changes=compare(was.state, now.state),
            counts=counts,
            counted_to=counted,
            truncated=counted < end,
            happened=Page(shown, encode_cursor(HistoryCursor("asc", reached, end), of) if reached < end else None),
        )

    async def _bounds(self, thread_id: ThreadId, asked: PageRequest) -> tuple[Version, Version, int]:
        """Return after which version to read, up to which, and where the list ends (0: it does not)."""
        row = await self._repository.row(thread_id, self._tenant)
        listed = await self._listed(row, asked)
        upto = listed or row.head.version
        if asked.place is None:
            return START, Version(upto), listed
        if asked.order == "desc":
            return START, Version(min(asked.place.version, upto)), listed
        return Version(asked.place.version), Version(upto), listed

    async def _listed(self, row: ThreadRow, asked: PageRequest) -> int:
        place, point = asked.place, asked.point
        if place is None:
            return await self._version(row, point) if point.given else 0
        _check(point)
        if place.order != asked.order or bool(place.upto) != point.given or place.upto > row.head.version:
            raise no_page()
        if point.version not in {None, place.upto}:
            raise no_page()
        return place.upto

    async def _version(self, row: ThreadRow, point: PointInTime) -> Version:
        _check(point)
        if point.version is None:
            version = await self._repository.store.version_at(row.thread_id, _in_utc(point))
            if not version:
                began = row.opened_at.isoformat().replace("+00:00", "Z")
                raise InvalidInput(point.time_field, f"the thread began at {began}")
            return version
        if not 1 <= point.version <= row.head.version:
            raise InvalidInput(point.version_field, f"the thread has versions 1 to {row.head.version}")
        return Version(point.version)

    async def _begin(self, row: ThreadRow, since: PointInTime) -> Version:
        """Return the version that a diff begins after: 0 is before the first event, and a fork's beginning is later."""
        _check(since)
        if not since.given:
            raise InvalidInput(since.version_field, f"is required: a version, or {since.time_field}, an instant")
        if since.version == START:
            return START
        if since.version is None:
            return await self._repository.store.version_at(row.thread_id, _in_utc(since)) or row.base
        return await self._version(row, since)

    async def _end(self, row: ThreadRow, until: PointInTime, place: HistoryCursor | None) -> Version:
        if place is None:
            return await self._version(row, until) if until.given else row.head.version
        _check(until)
        if place.order != "asc" or place.upto > row.head.version or until.version not in {None, place.upto}:
            raise no_page()
        return Version(place.upto)

    async def _at(self, thread_id: ThreadId, version: Version) -> LoadedThread:
        if not version:
            return LoadedThread(thread_id, self._tenant)
        return await self._repository.load_at(thread_id, version, self._tenant)

    async def _events(self, thread_id: ThreadId, after: Version, upto: Version) -> AsyncIterator[EventView]:
        async for recorded in self._repository.follow(thread_id, after, upto, AT_FIRST, PAGE_SIZE):
            yield event_view(recorded)

    async def _events_back(self, thread_id: ThreadId, after: Version, upto: Version) -> AsyncIterator[EventView]:
        async for page in self._repository.pages_back(thread_id, after, upto, AT_FIRST, PAGE_SIZE):
            for recorded in reversed(page):
                yield event_view(recorded)


def _check(point: PointInTime) -> None:
    if point.version is not None and point.at is not None:
        raise InvalidInput(point.time_field, f"cannot be given together with {point.version_field}")


def _in_utc(point: PointInTime) -> datetime:
    at = point.at
    if at is None or at.tzinfo is None:
        raise InvalidInput(point.time_field, "needs a time zone, such as 2026-11-23T10:00:00Z")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(point.time_field, "must lie in the years 1 to 9999 of UTC") from error


def pages_of(
    what: str, tenant: Tenant, thread_id: ThreadId, point: PointInTime = NOW, order: Order = "asc"
) -> tuple[object, ...]:
    """Say what a cursor of a thread's messages or events is of."""
    return what, tenant, thread_id, point, order


def _placed(asked: PageRequest, of: object) -> PageRequest:
    """Go on where the cursor says. Raises `InvalidInput`: it is of another list."""
    if asked.cursor is None:
        return asked
    return replace(asked, place=decode_cursor(asked.cursor, HistoryCursor, of), cursor=None)


async def _collected(found: AsyncIterator[Item], limit: int) -> tuple[Sequence[Item], bool]:
    """Take at most `limit` items, and no more after `PAGE_SIZE` bytes; say whether there was another one."""
    shown: list[Item] = []
    size = 0
    async for item in found:
        if len(shown) == limit or size >= PAGE_SIZE:
            return shown, True
        shown.append(item)
        size += len(msgspec.json.encode(item))
    return shown, False


def _page(
    shown: Sequence[Item], asked: PageRequest, reached: int, listed: int, of: object, end: int = START
) -> Page[Item]:
    """Make a page that goes on where it got, unless that is the end."""
    return Page(shown, None if reached == end else encode_cursor(HistoryCursor(asked.order, reached, listed), of))
