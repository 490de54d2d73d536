"""The log for consumers outside: slice by slice, each event at least once, in the order of the commits of its slice."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from domain.application.streaming.broadcast import Broadcast
from domain.errors import InvalidInput
from domain.ids import SLICES, Position, Slice, Tenant
from domain.log.hash_chain import Record
from domain.ports.log import EventStore

LOOKED_AT = 10_000
"""Records that one reading looks at, at most, in search of the tenant's records of the wanted types."""

HEAVIEST = 1_000_000
"""Bytes after which a page ends, however many items were asked for."""

AT_FIRST = 50
"""Records that are read before it is known how large they are."""

LOOK = 0.25
"""Seconds between two looks at the log for those who wait, where no signal comes."""

GATHERING = 0.03
"""Seconds after a signal in which others may come: one look is for all of them."""


class FeedCursor(Struct, frozen=True):
    """How far a consumer has come in neighbouring slices: after which position in each.

    `turn` is the slice to begin with, so that one in which much happens does not keep the others waiting.
    """

    first: Slice
    positions: tuple[Position, ...]
    turn: Slice

    @property
    def last(self) -> Slice:
        """The last of its slices."""
        return Slice(self.first + len(self.positions) - 1)

    def within(self, first: Slice, last: Slice) -> "FeedCursor":
        """Keep some of the slices. Raises `InvalidInput`: it says nothing about one of them."""
        if first < self.first or last > self.last:
            raise InvalidInput("slices", f"the cursor is about slices {self.first}-{self.last}; ask for some of these")
        kept = self.positions[first - self.first : last - self.first + 1]
        return FeedCursor(first, kept, self.turn if first <= self.turn <= last else first)

    def moved(self, seen: Mapping[Slice, Position]) -> "FeedCursor":
        """Go on after what was seen."""
        if not seen:
            return self
        positions = list(self.positions)
        for slice_, position in seen.items():
            positions[slice_ - self.first] = position
        following = Slice(list(seen)[-1] + 1)
        return FeedCursor(self.first, tuple(positions), following if following <= self.last else self.first)

    def behind(self, heads: Sequence[Position]) -> dict[Slice, Position]:
        """Say in which slices there is more, and after which position, from the one on whose turn it is."""
        slices = [*range(self.turn, self.last + 1), *range(self.first, self.turn)]
        places = {Slice(slice_): self.positions[slice_ - self.first] for slice_ in slices}
        return {slice_: position for slice_, position in places.items() if heads[slice_] > position}


class FeedPage(Struct, frozen=True):
    """What came after a place, and the place after that. `more`: there is more already."""

    records: Sequence[Record]
    place: FeedCursor
    more: bool


class FeedFilter(Struct, frozen=True):
    """Whose events, of which types (None: all), and how many at most."""

    tenant: Tenant
    types: Collection[str] | None
    limit: int


BEGINNING = FeedCursor(Slice(0), (Position(0),) * SLICES, Slice(0))
"""The place before everything."""


class Feed:
    """Reads the log for consumers, and waits with them. All who wait look at the log together."""

    def __init__(self, store: EventStore, broadcast: Broadcast) -> None:
        """Read a store; `broadcast` say early that there is something new."""
        self._store = store
        self._broadcast = broadcast
        self._look: asyncio.Task[Sequence[Position]] | None = None

    async def read(self, place: FeedCursor, wanted: FeedFilter, wait: float, stopping: asyncio.Event) -> FeedPage:
        """Return what came after a place; if there is nothing yet, wait for something for some seconds.

        Raises:
            InvalidInput: the place is beyond the log's end.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + wait
        heads = await self._store.slice_heads()
        if any(heads[place.first + n] < position for n, position in enumerate(place.positions)):
            raise InvalidInput(
                "after", "lies beyond the end of the log: it is another log's, or a backup took its place"
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
        """Read a few records first, and then about so many as fit beside them: weighing large ones takes time."""
        found: list[Record] = []
        room, most = HEAVIEST, AT_FIRST
        while (behind := place.behind(heads)) and room > 0 and (asked := min(most, wanted.limit - len(found))):
            stretch = await self._store.read_slices(
                behind, wanted.tenant, wanted.types, limit=asked, look=LOOKED_AT, room=room
            )
            records = stretch.records
            found += records
            place = place.moved(stretch.seen)
            if len(records) < asked:
                break
            room -= sum(map(_weight, records))
            most = max(room, 0) * len(found) // (HEAVIEST - room) + 1
        return FeedPage(found, place, more=bool(place.behind(heads)))

    async def _later(self) -> Sequence[Position]:
        """Return where the slices end in a moment. Who asks in the meantime gets the same answer."""
        if self._look is None:
            self._look = asyncio.create_task(self._look_soon())
            self._look.add_done_callback(lambda task: task.cancelled() or task.exception())  # somebody may have left
        return await asyncio.shield(self._look)

    async def _look_soon(self) -> Sequence[Position]:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._broadcast.anything()
                    await asyncio.sleep(GATHERING)
        finally:
            self._look = None  # what comes from now on is for the next look
        return await self._store.slice_heads()


def _weight(record: Record) -> int:
    return len(record.payload) + len(record.metadata)
