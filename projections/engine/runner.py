"""Keeps read models up to date: reads each slice after where a line is, and writes rows and position together.

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
from domain.ports.read_models import Batch, Instance, Line, LineId, Move, Parked, ReadModels, SliceLag
from domain.read_models.tables import Rows
from projections.engine.batch import ATTEMPTS, EventBatch, Writing
from projections.engine.projection import Projection
from projections.engine.thread_cache import ThreadCache

_log = logging.getLogger(__name__)

BATCH = 2_000
"""Events that are read at a time."""

AT_FIRST = 100
"""Events that a new process reads at a time; then twice as many, and so on: what it has done it may soon die with."""

IDLE = 0.5
"""Seconds between two looks at the log when nobody has said that there is something."""

BUSY = 0.02
"""Seconds between two looks, at least, so that many small commits are read together."""

CALM = 0.06
"""Seconds between two looks, at most, while there is something to read."""

REST = 4
"""A round that took so long is followed by a rest of so many times that, between `BUSY` and `CALM`: what a round costs
beside its events is then small, and most of the time is left to the turns that run here. It is shorter after a batch
that was more than half full, and there is none after a full one."""

FAR = 10_000
"""Events that a line is behind when two batches are under way at a time; so they are after a batch that was full."""

STRETCH = 0.1
"""Seconds for which they are, at least, before other lines have their turn."""

NEAR = 2_000
"""Events that an instance which is being built may be behind when it is made to serve: then writing pauses."""

PAUSE = 5.0
"""Seconds that the old instances pause for that, at most."""

AGAIN = 10.0
"""Seconds until that is tried again."""

TRIES = 20
"""How often a parked thread is told again, if its slice moves on meanwhile."""

FIRST = Slice(0)
"""Whoever holds it lets lines serve."""


@dataclass
class ProjectionRunner:
    """Runs the projections of the slices that `held` names."""

    repository: ThreadRepository
    models: ReadModels
    projections: Sequence[Projection]
    prices: Prices
    clock: Clock
    held: Callable[[], Collection[Slice]]
    _stories: ThreadCache = field(init=False)
    _woken: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _stopping: bool = field(init=False, default=False)
    _instances: Sequence[Instance] = field(init=False, default=())
    _lines: Sequence[Line] = field(init=False, default=())
    _look_at: float = field(init=False, default=0.0)
    """When to look again which instances and lines there are."""
    _turn: Slice = field(init=False, default_factory=lambda: Slice(random.randrange(SLICES)))  # noqa: S311
    """The slice to begin with: no slice waits for others again and again, and two runners seldom meet in one."""
    _most: int = field(init=False, default=AT_FIRST)
    _full: set[LineId] = field(init=False, default_factory=set)
    """Lines whose last batch in this round was full: in its events, or in their bytes."""
    _was_full: set[LineId] = field(init=False, default_factory=set)
    """Those of the round before."""
    _making: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    """Held by who makes rows: of two that make some in turn, neither is done before both are."""
    _rest_until: dict[LineId, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin without a memory."""
        self._stories = ThreadCache(self.repository, self.prices)

    def wake(self) -> None:
        """Say that there is something to read."""
        self._woken.set()

    def stop(self) -> None:
        """Let `run` end once what it is writing is written."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Run until it is stopped. An error that is no line's ends it: then it is to be run again."""
        self._stopping = False
        while not self._stopping:
            moved, full, started = 0, self._most, time.monotonic()
            try:
                moved = await self._round()
            except StoreUnavailable as error:
                _log.warning("The projections try again to read the log: %s", error)
            if moved < full and not self._full:
                rest = rest_after(moved, full, time.monotonic() - started)
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest if moved else IDLE):
                        await self._woken.wait()
                        await asyncio.sleep(rest)
                self._woken.clear()

    async def step(self) -> int:
        """Take each line on by a batch, and let what is built serve when it has come far enough. Count the events."""
        await self._look()
        self._was_full, self._full = self._full, set()
        return sum([await self._step(line) for line in self._lines])

    async def _round(self) -> int:
        """Step; what goes wrong with one line keeps none of the others."""
        if time.monotonic() >= self._look_at:
            await self._look()
        self._was_full, self._full = self._full, set()
        return sum([await self._guarded(line) for line in self._lines])

    async def _look(self) -> None:
        """Look which instances and lines there are. Who writes for others than there are is refused, and looks anew."""
        self._instances = await self.models.instances()
        self._lines = await self.models.lines()
        building = any(instance.status == "building" for instance in self._instances)
        self._look_at = 0.0 if building else time.monotonic() + IDLE

    async def _guarded(self, line: Line) -> int:
        try:
            return await self._step(line)
        except StoreUnavailable as error:
            _log.warning("The projections try again to read the log: %s", error)
        except NotRebuildable as error:
            _log.error("What was built cannot serve: %s", error)
        except Exception:  # noqa: BLE001  (as above)
            _log.exception("Line %s of the projections could not go on, and tries again", line.id)
        return 0

    async def _step(self, line: Line) -> int:
        writing = self.writing(line.id)
        if writing is None:
            return 0
        moved = await self._advance(line, writing)
        if self._is_near(line, writing):
            await self._switch(line.id, writing)
        return moved

    def writing(self, line: LineId) -> Sequence[Writing] | None:
        """Pair a line's instances with their projections; None if one is not known here, or there are none."""
        known = {(projection.name, projection.version): projection for projection in self.projections}
        instances = [instance for instance in self._instances if instance.line == line]
        if not instances or any((i.projection, i.version) not in known for i in instances):
            return None
        in_order = {projection.name: place for place, projection in enumerate(self.projections)}
        instances.sort(key=lambda instance: (in_order[instance.projection], instance.id))
        return [Writing(instance, known[instance.projection, instance.version]) for instance in instances]

    async def advance(self, line: LineId, slices: Collection[Slice], most: int = BATCH) -> int:
        """Take a line on by a batch in some slices. Count the events; 0 if there is nothing, or somebody was faster."""
        self._instances = await self.models.instances()
        writing = self.writing(line)
        return (await self._batch(line, writing, slices, most))[0] if writing else 0

    async def _advance(self, line: Line, writing: Sequence[Writing]) -> int:
        if line.throttle is None:
            return await self._batches(line, writing)
        share = line.throttle * len(self.held()) / SLICES
        if not share or self._rest_until.get(line.id, 0.0) > time.monotonic():
            return 0
        moved, _ = await self._batch(line.id, writing, self.held(), max(min(BATCH, int(share * IDLE)), 1))
        self._rest_until[line.id] = time.monotonic() + moved / share
        return 0  # so that nobody hurries on

    async def _batches(self, line: Line, writing: Sequence[Writing]) -> int:
        """Take a line on by a batch; where it is far behind, by some of each half: one is written while one is made."""
        held, far = list(self.held()), line.left > FAR or line.id in self._was_full
        if not far:
            return await self._stretch(line.id, writing, held, 0.0)
        until = time.monotonic() + STRETCH
        stretches = [self._stretch(line.id, writing, part, until) for part in (held[::2], held[1::2])]
        done = await asyncio.gather(*stretches, return_exceptions=True)  # none is left behind by one that fails
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed
        return sum(moved for moved in done if not isinstance(moved, BaseException))

    async def _stretch(self, line: LineId, writing: Sequence[Writing], slices: Collection[Slice], until: float) -> int:
        """Take a line on in some slices, until there is little left, or for some time."""
        moved = 0
        while True:
            most = self._most
            done, full = await self._batch(line, writing, slices, most)
            moved += done
            if done and full:  # of large events, no more are asked for than may fit
                self._most = min(2 * min(self._most, done), BATCH)
            if not full:
                return moved
            if self._stopping or time.monotonic() >= until:
                self._full.add(line)
                return moved

    async def _batch(
        self, line: LineId, writing: Sequence[Writing], slices: Collection[Slice], most: int
    ) -> tuple[int, bool]:
        """Take a line on. Count the events, and say whether more may fit into a batch than it took: it was full."""
        after = _first(await self.models.behind(line, slices), most, self._turn)
        records = await self.repository.store.read_after(after, most) if after else ()
        if not records:
            return 0, False
        parked = await self.models.parked([of.instance.id for of in writing], list(after))
        known = frozenset((one.instance, one.thread_id) for one in parked)
        digest = EventBatch(line, writing, self._stories, self.prices, self.clock, set(known))
        async with self._making:
            await digest.take(records)
        ends = _ends(records)
        moves = tuple(Move(slice_, after[slice_], position) for slice_, position in ends.items())
        written = None
        while written is None:
            batch = Batch(line, moves, digest.rows, known, tuple(digest.parking))
            try:
                written = await self.models.commit(batch)
            except Unwritable as error:
                self._forget(line, records)
                if len(records) > 1:  # find the one, by halves
                    return await self._batch(line, writing, slices, len(records) // 2)
                digest.leave_out(error, records[0])
        if not written:
            self._forget(line, records)
            self._look_at = 0.0
            return 0, False
        self._turn = Slice((slice_of(records[-1].thread_id) + 1) % SLICES)  # the next ones may not have fitted
        return len(records), may_have_more([len(record.payload) for record in records], most)

    def _forget(self, line: LineId, records: Sequence[Record]) -> None:
        for thread_id in {record.thread_id for record in records}:
            self._stories.forget(line, thread_id)

    def _is_near(self, line: Line, writing: Sequence[Writing]) -> bool:
        """Say whether this runner is to let a line serve: it is nearly there, and the first slice is held here."""
        building = any(of.instance.status == "building" for of in writing)
        in_charge = FIRST in self.held() and self._rest_until.get(line.id, 0.0) <= time.monotonic()
        return building and line.left <= NEAR and in_charge

    async def _switch(self, line: LineId, writing: Sequence[Writing]) -> None:
        """Let the old instances pause until the new ones are where they are, so that no read goes back in time."""
        names = {of.instance.projection for of in writing}
        old = {i.line for i in self._instances if i.projection in names and i.status == "serving"}
        await self.models.prepare(line)
        await self.models.pause(old, PAUSE)
        until = time.monotonic() + PAUSE / 2
        try:
            while time.monotonic() < until:
                moved, _ = await self._batch(line, writing, self.held(), BATCH)
                if await self.models.switch(line):
                    _log.info("Now serving: %s", ", ".join(sorted(names)))
                    return
                if not moved:
                    await asyncio.sleep(BUSY)  # another runner has the other slices
        finally:
            self._rest_until[line] = time.monotonic() + AGAIN
            await self.models.pause(old, 0)

    async def roll_back(self, projection: str) -> Instance:
        """Let the instance serve again that served before, once it is where the one that serves now has paused.

        Raises `NotRebuildable`.
        """
        serving = [
            i.line for i in await self.models.instances() if i.projection == projection and i.status == "serving"
        ]
        await self.models.pause(serving, PAUSE)
        until = time.monotonic() + PAUSE / 2
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
        writing = [of for i in self._instances for of in self.writing(i.line) or () if of.instance == i]
        mine = next((of for of in writing if of.instance.id == parked.instance), None)
        if mine is None:
            raise NotRebuildable(f"Instance {parked.instance} is of another version than this process knows.")
        for _ in range(TRIES):
            upto = await self.models.position(mine.instance.line, slice_of(parked.thread_id))
            digest = await self._told_again(parked, mine, upto, skip=skip)
            again = replace(digest.parking[0], attempts=parked.attempts + ATTEMPTS) if digest.parking else None
            rows = digest.rows[parked.instance]
            try:
                done = await self.models.unpark(parked, upto, rows, again)
            except Unwritable as error:
                again = replace(parked, error=str(error), attempts=parked.attempts + ATTEMPTS)
                done = await self.models.unpark(parked, upto, Rows(), again)
            if done:
                return again is None
        raise StoreUnavailable("The read model moves on all the time. Try again.")

    async def _told_again(self, parked: Parked, writing: Writing, upto: Position, *, skip: bool) -> EventBatch:
        stories = ThreadCache(self.repository, self.prices)
        digest = EventBatch(writing.instance.line, [writing], stories, self.prices, self.clock, set())
        told: list[Record] = []
        async for record in self.repository.records(parked.thread_id, Version(parked.version - 1)):
            if record.position > upto:
                break
            told.append(record)
        await digest.take(told, unhandled=parked.version if skip else None)
        return digest


def rest_after(moved: int, full: int, took: float) -> float:
    """Say how many seconds to rest after a round of so many events, which took so many seconds."""
    return max(min(REST * took, CALM) * min(1.0, 2.0 * (1 - moved / full)), BUSY)


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
