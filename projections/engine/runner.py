"""Keeps read models up to date: reads each slice after where a group is, and writes rows and position together.

Who runs it does not matter for what is right: a line's position moves by compare-and-set. Leases only keep two runners
from doing the same work twice.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain.application.thread_repository import ThreadRepository
from domain.budget.prices import Prices
from domain.errors import NotRebuildable, StillBehind, StoreUnavailable, Unwritable
from domain.ids import SLICES, Position, Slice, Version, slice_of
from domain.log.hash_chain import Record
from domain.ports.clock import Clock
from domain.ports.log import may_have_more
from domain.ports.read_models import Batch, GroupId, Instance, Move, Parked, ProjectionGroup, ReadModels, SliceLag
from domain.read_models.tables import Rows
from projections.engine.batch import MAX_ATTEMPTS, EventBatch, Writer
from projections.engine.projection import Projection
from projections.engine.thread_cache import ThreadCache

_log = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 2_000
"""Events that are read at a time."""

FIRST_BATCH_EVENTS = 100
"""Events that a new process reads at a time; then twice as many, and so on: what it has done it may soon die with."""

IDLE_POLL_S = 0.5
"""Seconds between two looks at the log when nobody has said that there is something."""

MIN_REST_S = 0.02
"""Seconds between two looks, at least, so that many small commits are read together."""

MAX_REST_S = 0.06
"""Seconds between two looks, at most, while there is something to read."""

REST_FACTOR = 4
"""A round that took so long is followed by a rest of so many times that, between `MIN_REST_S` and `MAX_REST_S`: what a
round costs beside its events is then small, and most of the time is left to the turns that run here. It is shorter after a batch
that was more than half full, and there is none after a full one."""

FAR_BEHIND_EVENTS = 10_000
"""Events that a group is behind when two batches are under way at a time; so they are after a batch that was full."""

MIN_PIPELINE_S = 0.1
"""Seconds for which they are, at least, before other groups have their turn."""

MAX_SWITCH_LAG_EVENTS = 2_000
"""Events that an instance which is being built may be behind when it is made to serve: then writers pauses."""

SWITCH_PAUSE_S = 5.0
"""Seconds that the old instances pause for that, at most."""

SWITCH_RETRY_S = 10.0
"""Seconds until that is tried again."""

MAX_UNPARK_TRIES = 20
"""How often a parked thread is told again, if its slice moves on meanwhile."""

SWITCHING_SLICE = Slice(0)
"""Whoever holds it lets groups serve."""


@dataclass
class ProjectionRunner:
    """Runs the projections of the slices that `held` names."""

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
    _lines: Sequence[ProjectionGroup] = field(init=False, default=())
    _look_at: float = field(init=False, default=0.0)
    """When to look again which instances and groups there are."""
    _turn: Slice = field(init=False, default_factory=lambda: Slice(random.randrange(SLICES)))  # noqa: S311
    """The slice to begin with: no slice waits for others again and again, and two runners seldom meet in one."""
    _batch_events: int = field(init=False, default=FIRST_BATCH_EVENTS)
    _full: set[GroupId] = field(init=False, default_factory=set)
    """Lines whose last batch in this round was full: in its events, or in their bytes."""
    _was_full: set[GroupId] = field(init=False, default_factory=set)
    """Those of the round before."""
    _making: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    """Held by who makes rows: of two that make some in turn, neither is done before both are."""
    _rest_until: dict[GroupId, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin without a memory."""
        self._cache = ThreadCache(self.repository, self.prices)

    def wake(self) -> None:
        """Say that there is something to read."""
        self._woken.set()

    def stop(self) -> None:
        """Let `run` end once what it is writers is written."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Run until it is stopped. An error that is no line's ends it: then it is to be run again."""
        self._stopping = False
        while not self._stopping:
            moved, full, started = 0, self._batch_events, time.monotonic()
            try:
                moved = await self._round()
            except StoreUnavailable as error:
                _log.warning("The projections try again to read the log: %s", error)
            if moved < full and not self._full:
                rest = rest_after(moved, full, time.monotonic() - started)
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest if moved else IDLE_POLL_S):
                        await self._woken.wait()
                        await asyncio.sleep(rest)
                self._woken.clear()

    async def step(self) -> int:
        """Take each group on by a batch, and let what is built serve when it has come far enough. Count the events."""
        await self._look()
        self._was_full, self._full = self._full, set()
        return sum([await self._step(group) for group in self._lines])

    async def _round(self) -> int:
        """Step; what goes wrong with one group keeps none of the others."""
        if time.monotonic() >= self._look_at:
            await self._look()
        self._was_full, self._full = self._full, set()
        return sum([await self._guarded(group) for group in self._lines])

    async def _look(self) -> None:
        """Look which instances and groups there are: a batch for other ones is refused."""
        self._instances = await self.models.instances()
        self._lines = await self.models.groups()
        building = any(instance.status == "building" for instance in self._instances)
        self._look_at = 0.0 if building else time.monotonic() + IDLE_POLL_S

    async def _guarded(self, group: ProjectionGroup) -> int:
        try:
            return await self._step(group)
        except StoreUnavailable as error:
            _log.warning("The projections try again to read the log: %s", error)
        except NotRebuildable as error:
            _log.error("What was built cannot serve: %s", error)
        except Exception:  # noqa: BLE001  (as above)
            _log.exception("ProjectionGroup %s of the projections could not go on, and tries again", group.id)
        return 0

    async def _step(self, group: ProjectionGroup) -> int:
        writers = self.writers(group.id)
        if writers is None:
            return 0
        moved = await self._advance(group, writers)
        if self._is_near(group, writers):
            await self._switch(group.id, writers)
        return moved

    def writers(self, group: GroupId) -> Sequence[Writer] | None:
        """Pair a line's instances with their projections; None if one is not known here, or there are none."""
        known = {(projection.name, projection.version): projection for projection in self.projections}
        instances = [instance for instance in self._instances if instance.group == group]
        if not instances or any((i.projection, i.version) not in known for i in instances):
            return None
        in_order = {projection.name: place for place, projection in enumerate(self.projections)}
        instances.sort(key=lambda instance: (in_order[instance.projection], instance.id))
        return [Writer(instance, known[instance.projection, instance.version]) for instance in instances]

    async def advance(self, group: GroupId, slices: Collection[Slice], most: int = MAX_BATCH_EVENTS) -> int:
        """Take a group on by a batch in some slices. Count the events; 0 if there is nothing."""
        self._instances = await self.models.instances()
        writers = self.writers(group)
        return (await self._batch(group, writers, slices, most))[0] if writers else 0

    async def _advance(self, group: ProjectionGroup, writers: Sequence[Writer]) -> int:
        if group.throttle is None:
            return await self._batches(group, writers)
        share = group.throttle * len(self.held()) / SLICES
        if not share or self._rest_until.get(group.id, 0.0) > time.monotonic():
            return 0
        moved, _ = await self._batch(
            group.id, writers, self.held(), max(min(MAX_BATCH_EVENTS, int(share * IDLE_POLL_S)), 1)
        )
        self._rest_until[group.id] = time.monotonic() + moved / share
        return 0  # so that nobody hurries on

    async def _batches(self, group: ProjectionGroup, writers: Sequence[Writer]) -> int:
        """Take a group on by a batch; if it is far behind, by some of each half of the slices."""
        held, far = list(self.held()), group.left > FAR_BEHIND_EVENTS or group.id in self._was_full
        if not far:
            return await self._stretch(group.id, writers, held, 0.0)
        until = time.monotonic() + MIN_PIPELINE_S
        stretches = [self._stretch(group.id, writers, part, until) for part in (held[::2], held[1::2])]
        done = await asyncio.gather(*stretches, return_exceptions=True)  # none is left behind by one that fails
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed
        return sum(moved for moved in done if not isinstance(moved, BaseException))

    async def _stretch(self, group: GroupId, writers: Sequence[Writer], slices: Collection[Slice], until: float) -> int:
        """Take a group on in some slices, until there is little left, or for some time."""
        moved = 0
        while True:
            most = self._batch_events
            done, full = await self._batch(group, writers, slices, most)
            moved += done
            if done and full:  # of large events, no more are asked for than may fit
                self._batch_events = min(2 * min(self._batch_events, done), MAX_BATCH_EVENTS)
            if not full:
                return moved
            if self._stopping or time.monotonic() >= until:
                self._full.add(group)
                return moved

    async def _batch(
        self, group: GroupId, writers: Sequence[Writer], slices: Collection[Slice], most: int
    ) -> tuple[int, bool]:
        """Take a group on. Count the events, and say whether more may fit into a batch than it took: it was full."""
        after = _first(await self.models.behind(group, slices), most, self._turn)
        records = await self.repository.store.read_after(after, most) if after else ()
        if not records:
            return 0, False
        parked = await self.models.parked([of.instance.id for of in writers], list(after))
        known = frozenset((one.instance, one.thread_id) for one in parked)
        made = EventBatch(group, writers, self._cache, self.prices, self.clock, set(known))
        async with self._making:
            await made.fold(records)
        ends = _ends(records)
        moves = tuple(Move(slice_, after[slice_], position) for slice_, position in ends.items())
        written = None
        while written is None:
            batch = Batch(group, moves, made.rows, known, tuple(made.parking))
            try:
                written = await self.models.commit(batch)
            except Unwritable as error:
                self._forget(group, records)
                if len(records) > 1:  # find the one, by halves
                    return await self._batch(group, writers, slices, len(records) // 2)
                made.park_unwritable(error, records[0])
        if not written:
            self._forget(group, records)
            self._look_at = 0.0
            return 0, False
        self._turn = Slice((slice_of(records[-1].thread_id) + 1) % SLICES)  # the next ones may not have fitted
        return len(records), may_have_more([len(record.payload) for record in records], most)

    def _forget(self, group: GroupId, records: Sequence[Record]) -> None:
        for thread_id in {record.thread_id for record in records}:
            self._cache.forget(group, thread_id)

    def _is_near(self, group: ProjectionGroup, writers: Sequence[Writer]) -> bool:
        """Say whether this runner is to let a group serve: it is nearly there, and the first slice is held here."""
        building = any(of.instance.status == "building" for of in writers)
        in_charge = SWITCHING_SLICE in self.held() and self._rest_until.get(group.id, 0.0) <= time.monotonic()
        return building and group.left <= MAX_SWITCH_LAG_EVENTS and in_charge

    async def _switch(self, group: GroupId, writers: Sequence[Writer]) -> None:
        """Let the old instances pause until the new ones are where they are, so that no read goes back in time."""
        names = {of.instance.projection for of in writers}
        old = {i.group for i in self._instances if i.projection in names and i.status == "serving"}
        await self.models.prepare(group)
        await self.models.pause(old, SWITCH_PAUSE_S)
        until = time.monotonic() + SWITCH_PAUSE_S / 2
        try:
            while time.monotonic() < until:
                moved, _ = await self._batch(group, writers, self.held(), MAX_BATCH_EVENTS)
                if await self.models.switch(group):
                    _log.info("Now serving: %s", ", ".join(sorted(names)))
                    return
                if not moved:
                    await asyncio.sleep(MIN_REST_S)  # another runner has the other slices
        finally:
            self._rest_until[group] = time.monotonic() + SWITCH_RETRY_S
            await self.models.pause(old, 0)

    async def roll_back(self, projection: str) -> Instance:
        """Let the instance serve again that served before, once it is where the one that serves now has paused.

        Raises `NotRebuildable`.
        """
        serving = [
            i.group for i in await self.models.instances() if i.projection == projection and i.status == "serving"
        ]
        await self.models.pause(serving, SWITCH_PAUSE_S)
        until = time.monotonic() + SWITCH_PAUSE_S / 2
        try:
            while True:
                try:
                    return await self.models.roll_back(projection)
                except StillBehind:
                    if time.monotonic() > until:
                        raise
                await self._round()
        finally:
            await self.models.pause(serving, 0)

    async def retry(self, parked: Parked, *, skip: bool = False) -> bool:
        """Go on with a parked thread, now that its handler can take the event, or without it.

        True if the thread is up to date; False if it is parked again. Raises `StoreUnavailable` if others write to
        the same slice all the time.
        """
        self._instances = await self.models.instances()
        writers = [of for i in self._instances for of in self.writers(i.group) or () if of.instance == i]
        mine = next((of for of in writers if of.instance.id == parked.instance), None)
        if mine is None:
            raise NotRebuildable(f"Instance {parked.instance} is of another version than this process knows.")
        for _ in range(MAX_UNPARK_TRIES):
            upto = await self.models.position(mine.instance.group, slice_of(parked.thread_id))
            made = await self._fold_again(parked, mine, upto, skip=skip)
            again = replace(made.parking[0], attempts=parked.attempts + MAX_ATTEMPTS) if made.parking else None
            rows = made.rows[parked.instance]
            try:
                done = await self.models.unpark(parked, upto, rows, again)
            except Unwritable as error:
                again = replace(parked, error=str(error), attempts=parked.attempts + MAX_ATTEMPTS)
                done = await self.models.unpark(parked, upto, Rows(), again)
            if done:
                return again is None
        raise StoreUnavailable("The read model moves on all the time. Try again.")

    async def _fold_again(self, parked: Parked, writers: Writer, upto: Position, *, skip: bool) -> EventBatch:
        cache = ThreadCache(self.repository, self.prices)
        made = EventBatch(writers.instance.group, [writers], cache, self.prices, self.clock, set())
        told: list[Record] = []
        async for record in self.repository.records(parked.thread_id, Version(parked.version - 1)):
            if record.position > upto:
                break
            told.append(record)
        await made.fold(told, unhandled=parked.version if skip else None)
        return made


def rest_after(moved: int, full: int, took: float) -> float:
    """Say how many seconds to rest after a round of so many events, which took so many seconds."""
    return max(min(REST_FACTOR * took, MAX_REST_S) * min(1.0, 2.0 * (1 - moved / full)), MIN_REST_S)


def _ends(records: Sequence[Record]) -> Mapping[Slice, Position]:
    """Say how far records come that are in the order of their slices' positions."""
    ends: dict[Slice, Position] = {}
    for thread_id, position in {record.thread_id: record.position for record in records}.items():
        slice_ = slice_of(thread_id)
        ends[slice_] = max(position, ends.get(slice_, position))
    return ends


def _first(slots: Sequence[SliceLag], most: int, turn: Slice) -> Mapping[Slice, Position]:
    """Take so many slices, from one on, that a batch is full, and no more: then few threads are in memory at a time."""
    after: dict[Slice, Position] = {}
    size = 0
    for slot in sorted(slots, key=lambda slot: (slot.slice < turn, slot.slice)):
        if size >= most:
            break
        after[slot.slice] = slot.position
        size += slot.head - slot.position
    return after
