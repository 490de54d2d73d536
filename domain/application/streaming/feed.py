"""The feed of the log for external consumers: at least once, per slice in the order of its commits."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from domain.application.streaming.broadcast import Broadcast
from domain.errors import InvalidInput
from domain.ids import SLICES, Position, Slice, Tenant
from domain.log.hash_chain import Record
from domain.ports.log import EventStore

MAX_SCANNED_RECORDS = 10_000
"""Records that one read scans, at most, for the tenant's records of the wanted types."""

MAX_PAGE_BYTES = 1_000_000
"""Bytes after which a page ends, whatever its limit."""

FIRST_READ_RECORDS = 50
"""Records that are read before their size is known."""

POLL_INTERVAL_S = 0.25
"""Seconds between two polls of the log for waiting consumers, without a signal."""

GATHER_S = 0.03
"""Seconds after a signal in which further ones may come: one poll serves all of them."""


class FeedCursor(Struct, frozen=True):
    """A consumer's cursor: the last position that it has received, for each slice of a range.

    `turn` is the slice to read first, so that a busy slice does not starve the others.
    """

    first: Slice
    positions: tuple[Position, ...]
    turn: Slice

    @property
    def last(self) -> Slice:
        """The last of its slices."""
        return Slice(self.first + len(self.positions) - 1)

    def within(self, first: Slice, last: Slice) -> "FeedCursor":
        """Narrow the cursor to some of its slices. Raises `InvalidInput`: a slice is not in it."""
        if first < self.first or last > self.last:
            raise InvalidInput("slices", f"the cursor is for slices {self.first}-{self.last}; ask for some of these")
        kept = self.positions[first - self.first : last - self.first + 1]
        return FeedCursor(first, kept, self.turn if first <= self.turn <= last else first)

    def moved(self, seen: Mapping[Slice, Position]) -> "FeedCursor":
        """Return the cursor after the positions that were scanned."""
        if not seen:
            return self
        positions = list(self.positions)
        for slice_, position in seen.items():
            positions[slice_ - self.first] = position
        following = Slice(list(seen)[-1] + 1)
        return FeedCursor(self.first, tuple(positions), following if following <= self.last else self.first)

    def behind(self, heads: Sequence[Position]) -> dict[Slice, Position]:
        """Return the slices that have further records, each with the position to read after, from `turn` on."""
        slices = [*range(self.turn, self.last + 1), *range(self.first, self.turn)]
        cursors = {Slice(slice_): self.positions[slice_ - self.first] for slice_ in slices}
        return {slice_: position for slice_, position in cursors.items() if heads[slice_] > position}


class FeedPage(Struct, frozen=True):
    """Records after a cursor, and the cursor after them. `more`: further records exist already."""

    records: Sequence[Record]
    place: FeedCursor
    more: bool


class FeedFilter(Struct, frozen=True):
    """Selects a tenant's events of some types (None: all), at most `limit` of them."""

    tenant: Tenant
    types: Collection[str] | None
    limit: int


BEGINNING = FeedCursor(Slice(0), (Position(0),) * SLICES, Slice(0))
"""The cursor before the first record of every slice."""


class Feed:
    """Reads the log for consumers, and waits for new records. Waiting consumers share one poll of the log."""

    def __init__(self, store: EventStore, broadcast: Broadcast) -> None:
        """Read a store. `broadcast` signals new events early."""
        self._store = store
        self._stored = asyncio.Event()
        broadcast.wake(self._stored.set)
        self._poll: asyncio.Task[Sequence[Position]] | None = None

    async def read(self, place: FeedCursor, wanted: FeedFilter, wait: float, stopping: asyncio.Event) -> FeedPage:
        """Return a page of records after a cursor. If there are none, wait up to `wait` seconds, or until `stopping`.

        Raises:
            InvalidInput: the cursor is beyond the log's end.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        heads = await self._store.slice_heads()
        if any(heads[place.first + n] < position for n, position in enumerate(place.positions)):
            raise InvalidInput(
                "after", "lies beyond the end of the log: it belongs to another log, or a backup was restored"
            )
        while True:
            found = await self._after(place, wanted, heads)
            if found.records or clock() >= until or stopping.is_set():
                return found
            place = found.place
            if not found.more:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        heads = await self._later()

    async def _after(self, place: FeedCursor, wanted: FeedFilter, heads: Sequence[Position]) -> FeedPage:
        """Read a few records first, then about as many as still fit: the store takes time to weigh large ones."""
        found: list[Record] = []
        room, most = MAX_PAGE_BYTES, FIRST_READ_RECORDS
        while (behind := place.behind(heads)) and room > 0 and (asked := min(most, wanted.limit - len(found))):
            stretch = await self._store.read_slices(
                behind, wanted.tenant, wanted.types, limit=asked, look=MAX_SCANNED_RECORDS, room=room
            )
            records = stretch.records
            found += records
            place = place.moved(stretch.seen)
            if len(records) < asked:
                break
            room -= sum(len(record.payload) + len(record.metadata) for record in records)
            most = max(room, 0) * len(found) // (MAX_PAGE_BYTES - room) + 1
        return FeedPage(found, place, more=bool(place.behind(heads)))

    async def _later(self) -> Sequence[Position]:
        """Return the slices' last positions after the next poll. Concurrent callers share it."""
        if self._poll is None:
            self._poll = asyncio.create_task(self._poll_soon())
            self._poll.add_done_callback(lambda task: task.cancelled() or task.exception())  # its callers may be gone
        return await asyncio.shield(self._poll)

    async def _poll_soon(self) -> Sequence[Position]:
        try:
            with suppress(TimeoutError):
                self._stored.clear()
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._stored.wait()
                    await asyncio.sleep(GATHER_S)
        finally:
            self._poll = None  # later events are for the next poll
        return await self._store.slice_heads()
