"""What is in threads: now, at a version, at an instant, and what happened between two of those."""

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from api.http.caller import Caller
from api.http.cursors import decode_cursor, encode_cursor, no_page
from api.http.params import in_utc
from api.runtime.composition import Runtime
from api.schemas.approvals import ApprovalView, waiting_approvals
from api.schemas.events import EventView, event_view
from api.schemas.history import DiffView, point_view
from api.schemas.page import Page
from api.schemas.prompts import ContextView, context_view
from api.services.access_log import AccessLogService
from domain.application.queries.changes import ChangesBetween, DescribedEvent
from domain.application.queries.prompts import TurnPrompts
from domain.application.queries.transcript import Transcript, TranscriptMessage
from domain.application.streaming.feed import FeedCursor, FeedFilter, FeedPage
from domain.application.thread_repository import LoadedThread
from domain.errors import InvalidInput
from domain.ids import MAX_VERSION, START, Tenant, ThreadId, TurnId, Version
from domain.ports.log import ThreadRow
from domain.thread.diff import compare
from projections.threads import ThreadSummary, summary

MAX_PAGE_BYTES = 1_000_000
"""Bytes of JSON after which a page of messages or events ends, even if fewer items than the limit are on it."""

MAX_SCANNED_EVENTS = 10_000
"""Events in which messages for one page are looked for: it bounds the cost of a page where messages are rare."""

MAX_COUNTED_EVENTS = 10_000
"""Events that a diff counts."""

FIRST_READ_EVENTS = 100
"""Events of the first read of a page. Later reads are larger, but a few large events may fill a page."""

Order: TypeAlias = Literal["asc", "desc"]
Reached = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
Item = TypeVar("Item", TranscriptMessage, EventView, DescribedEvent)


class HistoryCursor(Struct, frozen=True, array_like=True):
    """Where a page ended: its order, the version to continue after (or back from), and the list's last version.

    `upto` is 0 if the list has no end: then later pages include what happens meanwhile.
    """

    order: Order
    version: Reached
    upto: Reached = 0


class PointInTime(Struct, frozen=True):
    """A version, an instant, or neither; and the names that the caller has for them."""

    version: int | None = None
    at: datetime | None = None
    version_field: str = "at_version"
    time_field: str = "at_time"

    @property
    def given(self) -> bool:
        """Whether there is a version or an instant."""
        return self.version is not None or self.at is not None


NOW = PointInTime()


class PageRequest(Struct, frozen=True):
    """Which page: of the thread as it was at `point` (without one, now), from `place` on or from a cursor's place."""

    limit: int
    place: HistoryCursor | None = None
    point: PointInTime = NOW
    order: Order = "asc"
    cursor: str | None = None


class _PageItems(Generic[Item]):
    """The items of a page: at most `limit`, and no more after `MAX_PAGE_BYTES`. `more`: another one was offered."""

    def __init__(self, limit: int) -> None:
        self.items: list[Item] = []
        self.more = False
        self._limit = limit
        self._size = 0

    def add(self, item: Item) -> bool:
        """Add an item. Return whether there was room for it."""
        self.more = len(self.items) == self._limit or self._size >= MAX_PAGE_BYTES
        if not self.more:
            self.items.append(item)
            self._size += len(msgspec.json.encode(item))
        return not self.more


class ThreadHistory:
    """Queries that show what is in threads. What a query costs depends on its page, not on the thread's age.

    Each method with a `caller` records the access before it returns: see `AccessLogService`.
    """

    def __init__(self, runtime: Runtime, access_log: AccessLogService) -> None:
        self._runtime = runtime
        self._repository = runtime.repository
        self._access_log = access_log

    async def summary(self, thread_id: ThreadId, caller: Caller, point: PointInTime = NOW) -> ThreadSummary:
        """Summarise a thread by folding it. Raises `UnknownThread`, `InvalidInput`."""
        loaded = await self.loaded(thread_id, caller.tenant, point)
        row = await self._repository.store.thread(thread_id)
        await self._access_log.record_thread(caller, "summary", thread_id)
        return summary(loaded, row.opened_at if row else loaded.head.at, self._runtime.prices)

    async def state(self, thread_id: ThreadId, point: PointInTime, caller: Caller) -> LoadedThread:
        """Return a thread's state. Raises `UnknownThread`, `InvalidInput`."""
        loaded = await self.loaded(thread_id, caller.tenant, point)
        await self._access_log.record_thread(caller, "state", thread_id)
        return loaded

    async def messages(self, thread_id: ThreadId, asked: PageRequest, caller: Caller) -> Page[TranscriptMessage]:
        """Read a page of the transcript. A page may have fewer items than its limit, and the last one none."""
        of, after, upto, listed = await self._bounds("messages", thread_id, asked, caller.tenant)
        shown, end = _PageItems[TranscriptMessage](asked.limit), START
        transcript = Transcript(self._repository, thread_id)
        if asked.order == "desc":
            enough = Version(max(upto - MAX_SCANNED_EVENTS, START))
            found = transcript.read_back(upto, enough=enough, first=FIRST_READ_EVENTS)
        elif after < upto:
            enough, end = Version(min(after + MAX_SCANNED_EVENTS, upto)), upto
            found = transcript.read(after, upto, enough=enough, first=FIRST_READ_EVENTS)
        else:
            return Page([], None)
        async for message in found:
            if not shown.add(message):
                break
        if shown.items:
            await self._access_log.record_thread(caller, "messages", thread_id)
        reached: int = enough
        if asked.order == "desc":
            last = shown.items[-1].version - 1 if shown.items else upto
            reached = last if shown.more else min(enough, last)
        elif shown.more:
            reached = shown.items[-1].version
        return _page(shown.items, asked, reached, listed, of, end)

    async def events(self, thread_id: ThreadId, asked: PageRequest, caller: Caller) -> Page[EventView]:
        """Read a page of a thread's events as they were recorded."""
        of, after, upto, listed = await self._bounds("events", thread_id, asked, caller.tenant)
        shown = _PageItems[EventView](asked.limit)
        if asked.order == "desc":
            end, begin = START, Version(max(upto - asked.limit, START))
            async for page in self._repository.pages_back(thread_id, begin, upto, FIRST_READ_EVENTS, MAX_PAGE_BYTES):
                if not all(shown.add(event_view(recorded)) for recorded in reversed(page)):
                    break
        elif after < upto:
            end, last = upto, Version(min(after + asked.limit, upto))
            async for recorded in self._repository.follow(thread_id, after, last, FIRST_READ_EVENTS, MAX_PAGE_BYTES):
                if not shown.add(event_view(recorded)):
                    break
        else:
            return Page([], None)
        if shown.items:
            await self._access_log.record_thread(caller, "events", thread_id)
        reached = shown.items[-1].version - (asked.order == "desc") if shown.items else START
        return _page(shown.items, asked, reached, listed, of, end)

    async def diff(
        self,
        thread_id: ThreadId,
        since: PointInTime,
        until: PointInTime,
        limit: int,
        cursor: str | None,
        caller: Caller,
    ) -> DiffView:
        """Return what happened after `since` and up to `until`, by default up to now.

        Raises `UnknownThread`, `InvalidInput`.
        """
        of = ("diff", caller.tenant, thread_id, since, until)
        place = decode_cursor(cursor, HistoryCursor, of) if cursor is not None else None
        row = await self._repository.row(thread_id, caller.tenant)
        begin, end = await self._begin(row, since), await self._end(row, until, place)
        if begin > end:
            field = since.time_field if since.version is None else since.version_field
            raise InvalidInput(field, f"is at version {begin}, after the end at version {end}")
        after = begin if place is None else Version(place.version)
        if not begin <= after <= end:
            raise no_page()
        was, now = await self._at(row, begin), await self._at(row, end)
        between = ChangesBetween(self._repository, thread_id, begin, end)
        counts, counted = await between.counts(MAX_COUNTED_EVENTS)
        shown = _PageItems[DescribedEvent](limit)
        async for described in between.sentences(after, limit, FIRST_READ_EVENTS):
            if not shown.add(described):
                break
        await self._access_log.record_thread(caller, "diff", thread_id)
        reached = shown.items[-1].version if shown.items else end
        following = encode_cursor(HistoryCursor("asc", reached, end), of) if reached < end else None
        return DiffView(
            thread_id=thread_id,
            since=point_view(was),
            until=point_view(now),
            changes=compare(was.state, now.state),
            counts=counts,
            counted_to=counted,
            truncated=counted < end,
            happened=Page(shown.items, following),
        )

    async def prompts(self, thread_id: ThreadId, turn_id: TurnId, caller: Caller, after: int = 0) -> ContextView:
        """Show the prompts of a turn that were recorded after a version. Raises `UnknownThread`, `UnknownTurn`."""
        loaded = await self._repository.existing(thread_id, caller.tenant)
        texts, tokens = self._runtime.log.texts, self._runtime.turns.services.tokens
        page = await TurnPrompts(self._repository, texts, tokens, loaded).page(turn_id, after)
        await self._access_log.record_thread(caller, "context", thread_id)
        return context_view(thread_id, turn_id, page)

    async def approvals(self, thread_id: ThreadId, caller: Caller) -> Sequence[ApprovalView]:
        """List what waits for a person's approval in a thread. Raises `UnknownThread`."""
        found = waiting_approvals((await self._repository.existing(thread_id, caller.tenant)).state)
        if found:
            await self._access_log.record_thread(caller, "approvals", thread_id)
        return found

    async def begin_stream(
        self, thread_id: ThreadId, caller: Caller, after: Version | None = None, field: str = "after"
    ) -> ThreadRow:
        """Return the head of a thread that the caller is about to follow, after a version or from now on.

        Raises `UnknownThread`; and `InvalidInput` with the field's name for a version that the thread does not have
        yet: the caller would receive nothing until then, and miss the events before.
        """
        row = await self._repository.row(thread_id, caller.tenant)
        if after is not None and after > row.head.version:
            last = row.head.version
            raise InvalidInput(field, f"the thread has versions up to {last}; give one of those, or none to begin now")
        await self._access_log.record_thread(caller, "stream", thread_id)
        return row

    async def feed(self, place: FeedCursor, wanted: FeedFilter, wait_s: float, caller: Caller) -> FeedPage:
        """Read a page of the events of all threads."""
        found = await self._runtime.feed.read(place, wanted, wait_s, self._runtime.stopping)
        await self._access_log.record_threads(caller, "feed", (record.thread_id for record in found.records))
        return found

    def loaded(self, thread_id: ThreadId, tenant: Tenant, point: PointInTime = NOW) -> Awaitable[LoadedThread]:
        """Fold a thread up to a point. No access is recorded. Raises `UnknownThread`, `InvalidInput`."""
        _check(point)
        if point.at is not None:
            return self._loaded_at_time(thread_id, tenant, in_utc(point.at, point.time_field))
        if point.version is None:
            return self._repository.existing(thread_id, tenant)
        if not 1 <= point.version <= MAX_VERSION:
            raise InvalidInput(point.version_field, f"must be between 1 and {MAX_VERSION}")
        return self._repository.load_at(thread_id, Version(point.version), tenant)

    async def _loaded_at_time(self, thread_id: ThreadId, tenant: Tenant, at: datetime) -> LoadedThread:
        version = await self._repository.version_at(thread_id, at, tenant)
        return await self._repository.load_at(thread_id, version, tenant)

    async def _bounds(
        self, what: str, thread_id: ThreadId, asked: PageRequest, tenant: Tenant
    ) -> tuple[object, Version, Version, int]:
        """Return what identifies the list, and three versions: to read after, to read up to, and the list's last one.

        The last one is 0 if the list has no end. Raises `InvalidInput` for a cursor of another list.
        """
        place, point = asked.place, asked.point
        of = pages_of(what, tenant, thread_id, point, asked.order)
        if asked.cursor is not None:
            place = decode_cursor(asked.cursor, HistoryCursor, of)
        row = await self._repository.row(thread_id, tenant)
        if place is None:
            listed = await self._version(row, point) if point.given else 0
            return of, START, Version(listed or row.head.version), listed
        _check(point)
        if place.order != asked.order or bool(place.upto) != point.given:
            raise no_page()
        if place.upto > row.head.version or point.version not in {None, place.upto}:
            raise no_page()
        upto = Version(place.upto or row.head.version)
        if asked.order == "desc":
            return of, START, Version(min(place.version, upto)), place.upto
        return of, Version(place.version), upto, place.upto

    async def _version(self, row: ThreadRow, point: PointInTime) -> Version:
        _check(point)
        if point.at is not None:
            at = in_utc(point.at, point.time_field)
            if found := await self._repository.store.version_at(row.thread_id, at):
                return found
            began = row.opened_at.isoformat().replace("+00:00", "Z")
            raise InvalidInput(point.time_field, f"the thread began at {began}")
        if not 1 <= (version := Version(point.version or 0)) <= row.head.version:
            raise InvalidInput(point.version_field, f"the thread has versions 1 to {row.head.version}")
        return version

    async def _begin(self, row: ThreadRow, since: PointInTime) -> Version:
        """Return the version that a diff begins after: 0 is before the first event; a fork's first is after `base`."""
        _check(since)
        if not since.given:
            raise InvalidInput(since.version_field, f"is required: a version, or {since.time_field}, an instant")
        if since.at is not None:
            at = in_utc(since.at, since.time_field)
            return await self._repository.store.version_at(row.thread_id, at) or row.base
        return START if since.version == START else await self._version(row, since)

    async def _end(self, row: ThreadRow, until: PointInTime, place: HistoryCursor | None) -> Version:
        if place is None:
            return await self._version(row, until) if until.given else row.head.version
        _check(until)
        if place.order != "asc" or place.upto > row.head.version or until.version not in {None, place.upto}:
            raise no_page()
        return Version(place.upto)

    async def _at(self, row: ThreadRow, version: Version) -> LoadedThread:
        if not version:
            return LoadedThread(row.thread_id, row.tenant)
        return await self._repository.load_at(row.thread_id, version, row.tenant)


def _check(point: PointInTime) -> None:
    if point.version is not None and point.at is not None:
        raise InvalidInput(point.time_field, f"cannot be given together with {point.version_field}")


def pages_of(
    what: str, tenant: Tenant, thread_id: ThreadId, point: PointInTime = NOW, order: Order = "asc"
) -> tuple[object, ...]:
    """Return what identifies a list of messages or events: a cursor is valid for one list only."""
    return what, tenant, thread_id, point, order


def _page(shown: Sequence[Item], asked: PageRequest, reached: int, listed: int, of: object, end: int) -> Page[Item]:
    """Make a page, with a cursor unless it reached the end of the list."""
    return Page(shown, None if reached == end else encode_cursor(HistoryCursor(asked.order, reached, listed), of))
