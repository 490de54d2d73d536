"""The projection runner: it keeps read models up to date.

Each round takes every group of projections through four steps:

1. read a batch of events from the slices in which the group is behind,
2. fold the batch into rows,
3. write the rows and the new positions in one transaction,
4. rest: back off while there is little to read, or nothing.

Positions move by compare-and-set. So each projection applies each position exactly once, however many processes run its
group. Leases only keep two processes from doing the same work twice.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Prices
from domain.errors import NotRebuildable, StillBehind, StoreUnavailable, Unwritable
from domain.ids import SLICES, Position, Slice, Version, slice_of
from domain.log.hash_chain import Record
from domain.ports.clock import Clock
from domain.ports.log import may_have_more
from domain.ports.read_models import GroupId, Instance, Move, Parked, ProjectionGroup, ReadModels
from domain.read_models.tables import Rows
from projections.engine.batch import MAX_ATTEMPTS, EventBatch, Writer
from projections.engine.projection import Projection
from projections.engine.thread_cache import ThreadCache

_log = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 2_000
"""Events of a batch, at most."""

FIRST_BATCH_EVENTS = 100
"""Events of a new process's first batch. Later ones double: a process that dies soon loses little of its work."""

IDLE_POLL_S = 0.5
"""Seconds between two looks at the log while no wake-up arrives."""

MIN_REST_S = 0.02
"""Seconds between two rounds, at least: so many small commits are read together."""

MAX_REST_S = 0.06
"""Seconds between two rounds, at most, while there is something to read."""

REST_FACTOR = 4
"""A round that took t seconds is followed by a rest of this factor times t, within `MIN_REST_S` and `MAX_REST_S`. So a
round's fixed costs stay small, and most of the time is left to the turns that run in this process. The rest is shorter
after a batch that was more than half full; after a full batch there is none."""

FAR_BEHIND_EVENTS = 10_000
"""Events that a group is behind when two of its batches are under way at a time. They also are after a full batch."""

MIN_PIPELINE_S = 0.1
"""Seconds for which two batches are under way, at least, before the next group has its turn."""

MAX_SWITCH_LAG_EVENTS = 2_000
"""Events that a group which is being built may be behind when the switch to it begins and the old group pauses."""

SWITCH_PAUSE_S = 5.0
"""Seconds that the old group pauses for a switch, at most."""

SWITCH_RETRY_S = 10.0
"""Seconds until a switch that failed is tried again."""

MAX_UNPARK_TRIES = 20
"""How often a parked thread is folded again because its slice moved on meanwhile."""

SWITCHING_SLICE = Slice(0)
"""The process that holds this slice makes the switches."""


@dataclass
class ProjectionRunner:
    """Runs the projections in the slices that `held` returns."""

    repository: ThreadRepository
    models: ReadModels
    projections: Sequence[Projection]
    prices: Prices
    clock: Clock
    held: Callable[[], Collection[Slice]]
    _cache: ThreadCache = field(init=False)
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _stopping: bool = field(init=False, default=False)
    _instances: Sequence[Instance] = field(init=False, default=())
    _groups: Sequence[ProjectionGroup] = field(init=False, default=())
    _refresh_at: float = field(init=False, default=0.0)
    """When to read again which instances and groups there are."""
    _next_slice: Slice = field(init=False, default_factory=lambda: Slice(random.randrange(SLICES)))  # noqa: S311
    """The slice to read first. It rotates, so that no slice starves; it is random, so that two runners seldom meet."""
    _batch_events: int = field(init=False, default=FIRST_BATCH_EVENTS)
    _full: set[GroupId] = field(init=False, default_factory=set)
    """Groups whose last batch was full, in events or in bytes: there may be more to read."""
    _folding: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    """Held while a batch is folded: if two took turns, neither would be done before both are."""
    _rest_until: dict[GroupId, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with an empty cache."""
        self._cache = ThreadCache(self.repository, self.prices)

    def wake(self) -> None:
        """Cut a rest short: there is something to read."""
        self._woken.set()

    def stop(self) -> None:
        """Let `run` return once the current round is over."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Run rounds until `stop`. An error that belongs to no group is raised; the caller is to run this again."""
        self._stopping = False
        while not self._stopping:
            moved, limit, started = 0, self._batch_events, time.monotonic()
            try:
                moved = await self._round()
            except StoreUnavailable as error:
                self._full.clear()
                _log.warning("The projections cannot read the log and will try again: %s", error)
            if moved < limit and not self._full:
                await self._rest(moved, rest_after(moved, limit, time.monotonic() - started))

    async def step(self) -> int:
        """Run one round and return its number of events. Unlike `run`, this raises what goes wrong with a group."""
        await self._refresh()
        return sum([await self._advance(group) for group in self._groups])

    async def advance(self, group: GroupId, slices: Collection[Slice], limit: int = MAX_BATCH_EVENTS) -> int:
        """Advance a group by one batch of some slices.

        Return the number of events: 0 if there is nothing to read, or if another process wrote first.
        """
        self._instances = await self.models.instances()
        writers = self._writers(group)
        return (await self._batch(group, writers, slices, limit))[0] if writers else 0

    async def _round(self) -> int:
        """Advance every group; one that fails does not keep the others from it."""
        if time.monotonic() >= self._refresh_at:
            await self._refresh()
        moved = 0
        for group in self._groups:
            try:
                moved += await self._advance(group)
            except StoreUnavailable as error:
                _log.warning("The projections cannot read the log and will try again: %s", error)
            except NotRebuildable as error:
                _log.error("What was built cannot serve: %s", error)
            except Exception:  # noqa: BLE001  (the other groups go on, and this one is tried again)
                _log.exception("The projection group %s failed and will try again", group.id)
        return moved

    async def _refresh(self) -> None:
        """Read which instances and groups there are. A store refuses batches that were made for other ones."""
        self._instances = await self.models.instances()
        self._groups = await self.models.groups()
        self._full &= {group.id for group in self._groups}
        building = any(instance.status == "building" for instance in self._instances)
        self._refresh_at = 0.0 if building else time.monotonic() + IDLE_POLL_S

    async def _advance(self, group: ProjectionGroup) -> int:
        """Advance a group in the slices that are held here, and switch to it if it is built. Return its events."""
        far_behind = group.left > FAR_BEHIND_EVENTS or group.id in self._full
        self._full.discard(group.id)
        writers, held = self._writers(group.id), list(self.held())
        moved = 0
        if not writers:
            return 0
        if group.throttle is not None:
            await self._throttled(group, group.throttle * len(held) / SLICES, writers, held)
        elif far_behind:  # one half of the slices is folded while rows of the other half are written
            until = time.monotonic() + MIN_PIPELINE_S
            halves = [self._batches(group.id, writers, half, until) for half in (held[::2], held[1::2])]
            # No half outlives a failure of the other.
            for done in await asyncio.gather(*halves, return_exceptions=True):
                if isinstance(done, BaseException):
                    raise done
                moved += done
        else:
            moved = await self._batches(group.id, writers, held, until=0.0)
        building = any(writer.instance.status == "building" for writer in writers)
        is_built = building and group.left <= MAX_SWITCH_LAG_EVENTS
        if is_built and SWITCHING_SLICE in held and self._rest_until.get(group.id, 0.0) <= time.monotonic():
            await self._switch(group.id, writers)
        return moved

    async def _throttled(
        self, group: ProjectionGroup, events_per_s: float, writers: Sequence[Writer], slices: Collection[Slice]
    ) -> None:
        """Advance a group by one small batch, unless it has to rest for the one before."""
        if events_per_s and self._rest_until.get(group.id, 0.0) <= time.monotonic():
            limit = max(min(MAX_BATCH_EVENTS, int(events_per_s * IDLE_POLL_S)), 1)
            moved, _ = await self._batch(group.id, writers, slices, limit)
            self._rest_until[group.id] = time.monotonic() + moved / events_per_s

    async def _batches(self, group: GroupId, writers: Sequence[Writer], slices: Collection[Slice], until: float) -> int:
        """Advance a group by one batch of some slices; while batches are full, by further ones until an instant."""
        moved = 0
        while True:
            events, full = await self._batch(group, writers, slices, self._batch_events)
            moved += events
            if not full:
                return moved
            # A batch that was full in bytes had fewer events than its limit: the next limit is what may fit.
            self._batch_events = min(2 * min(self._batch_events, events), MAX_BATCH_EVENTS)
            if self._stopping or time.monotonic() >= until:
                self._full.add(group)
                return moved

    async def _batch(
        self, group: GroupId, writers: Sequence[Writer], slices: Collection[Slice], limit: int
    ) -> tuple[int, bool]:
        """Read, fold and write one batch. Return the number of its events, and whether it was full."""
        after, records = await self._read(group, slices, limit)
        if not records:
            return 0, False
        batch = await self._fold(group, writers, after, records)
        try:
            written = await self._write(batch, after, records)
        except Unwritable:  # its event is found by halves
            self._cache.forget(group, records)
            return await self._batch(group, writers, slices, len(records) // 2)
        if not written:
            self._cache.forget(group, records)
            self._refresh_at = 0.0
            return 0, False
        self._next_slice = Slice((slice_of(records[-1].thread_id) + 1) % SLICES)  # the next ones may not have fitted
        return len(records), may_have_more([len(record.payload) for record in records], limit)

    async def _read(
        self, group: GroupId, slices: Collection[Slice], limit: int
    ) -> tuple[Mapping[Slice, Position], Sequence[Record]]:
        """Read events after the group's positions, which are returned too.

        Only as many slices are read as fill a batch: then few threads are in memory at a time.
        """
        after: dict[Slice, Position] = {}
        events = 0
        behind = await self.models.behind(group, slices)
        for lag in sorted(behind, key=lambda lag: (lag.slice < self._next_slice, lag.slice)):
            if events >= limit:
                break
            after[lag.slice] = lag.position
            events += lag.head - lag.position
        return after, await self.repository.store.read_after(after, limit) if after else ()

    async def _fold(
        self, group: GroupId, writers: Sequence[Writer], after: Mapping[Slice, Position], records: Sequence[Record]
    ) -> EventBatch:
        """Fold events into rows."""
        parked = await self.models.parked([writer.instance.id for writer in writers], list(after))
        keys = {(one.instance, one.thread_id) for one in parked}
        batch = EventBatch(group, writers, self._cache, self.prices, self.clock, keys)
        async with self._folding:
            await batch.fold(records)
        return batch

    async def _write(self, batch: EventBatch, after: Mapping[Slice, Position], records: Sequence[Record]) -> bool:
        """Write rows and positions in one transaction. False: another process was faster, or the group changed.

        An event whose row cannot be stored is parked if it is alone in its batch. Else this raises `Unwritable`.
        """
        moves = tuple(Move(slice_, after[slice_], upto) for slice_, upto in _ends(records).items())
        while True:
            try:
                return await self.models.commit(batch.written(moves))
            except Unwritable as error:
                if len(records) > 1:
                    raise
                batch.park_unwritable(error, records[0])

    async def _rest(self, moved: int, seconds: float) -> None:
        """Rest for some seconds; after a round without events, until a wake-up comes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if moved else IDLE_POLL_S):
                await self._woken.wait()
                await asyncio.sleep(seconds)
        self._woken.clear()

    def _writers(self, group: GroupId) -> Sequence[Writer]:
        """Pair a group's instances with their projections; none if this process does not know one of them."""
        known = {(projection.name, projection.version): projection for projection in self.projections}
        instances = [instance for instance in self._instances if instance.group == group]
        if any((i.projection, i.version) not in known for i in instances):
            return ()
        order = list(known)
        instances.sort(key=lambda i: (order.index((i.projection, i.version)), i.id))
        return [Writer(i, known[i.projection, i.version]) for i in instances]

    async def _switch(self, group: GroupId, writers: Sequence[Writer]) -> None:
        """Let a built group serve. The old one pauses until the new one has reached it: no read goes back in time."""
        names = {writer.instance.projection for writer in writers}
        old = {i.group for i in self._instances if i.projection in names and i.status == "serving"}
        await self.models.prepare(group)
        try:
            async with self._paused(old) as until:
                while time.monotonic() < until:
                    moved, _ = await self._batch(group, writers, self.held(), MAX_BATCH_EVENTS)
                    if await self.models.switch(group):
                        _log.info("Now serving: %s", ", ".join(sorted(names)))
                        return
                    if not moved:
                        await asyncio.sleep(MIN_REST_S)  # another process holds the other slices
        finally:
            self._rest_until[group] = time.monotonic() + SWITCH_RETRY_S

    async def roll_back(self, projection: str) -> Instance:
        """Let the instance that served before serve again, once it has reached the one that serves now.

        Raises `NotRebuildable`.
        """
        instances = await self.models.instances()
        serving = {i.group for i in instances if i.projection == projection and i.status == "serving"}
        async with self._paused(serving) as until:
            while True:
                try:
                    return await self.models.roll_back(projection)
                except StillBehind:
                    if time.monotonic() > until:
                        raise
                await self._round()

    @asynccontextmanager
    async def _paused(self, groups: Collection[GroupId]) -> AsyncIterator[float]:
        """Let groups write nothing meanwhile. Yields the instant by which to be done: before the pause runs out."""
        await self.models.pause(groups, SWITCH_PAUSE_S)
        try:
            yield time.monotonic() + SWITCH_PAUSE_S / 2
        finally:
            await self.models.pause(groups, 0)

    async def retry(self, parked: Parked, *, skip: bool = False) -> bool:
        """Fold a parked thread again from its event on, now that the handler can take it; or without it, to skip it.

        Returns True if the thread is up to date, False if it is parked again. Raises `NotRebuildable` if this process
        does not know the projection's version, `StoreUnavailable` if other processes keep moving the slice.
        """
        known = {(projection.name, projection.version): projection for projection in self.projections}
        instance = next((one for one in await self.models.instances() if one.id == parked.instance), None)
        if instance is None or (instance.projection, instance.version) not in known:
            raise NotRebuildable(f"Instance {parked.instance} is of a version that this process does not know.")
        writer = Writer(instance, known[instance.projection, instance.version])
        for _ in range(MAX_UNPARK_TRIES):
            upto = await self.models.position(instance.group, slice_of(parked.thread_id))
            records: list[Record] = []
            async for record in self.repository.records(parked.thread_id, Version(parked.version - 1)):
                if record.position > upto:
                    break
                records.append(record)
            cache = ThreadCache(self.repository, self.prices)
            batch = EventBatch(instance.group, [writer], cache, self.prices, self.clock, set())
            await batch.fold(records, unhandled=parked.version if skip else None)
            attempts = parked.attempts + MAX_ATTEMPTS
            again = replace(batch.parking[0], attempts=attempts) if batch.parking else None
            try:
                done = await self.models.unpark(parked, upto, batch.rows[instance.id], again)
            except Unwritable as error:
                again = replace(parked, error=str(error), attempts=attempts)
                done = await self.models.unpark(parked, upto, Rows(), again)
            if done:
                return again is None
        raise StoreUnavailable("The read model's position keeps moving. Try again.")


def rest_after(moved: int, limit: int, took: float) -> float:
    """Return how many seconds to rest after a round of `moved` events, of at most `limit`, that took some seconds."""
    return max(min(REST_FACTOR * took, MAX_REST_S) * min(1.0, 2.0 * (1 - moved / limit)), MIN_REST_S)


def _ends(records: Sequence[Record]) -> Mapping[Slice, Position]:
    """Return the last position of each slice. Records are in the order of their slices' positions."""
    ends: dict[Slice, Position] = {}
    for thread_id, position in {record.thread_id: record.position for record in records}.items():
        slice_ = slice_of(thread_id)
        ends[slice_] = max(position, ends.get(slice_, position))
    return ends
