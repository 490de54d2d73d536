"""Where read models are kept: which there are, how far each has come, and what is written and asked.

An *instance* is one filling of a projection's tables. At most one of each projection is `serving`, which is the one
that queries see; one may be `building` beside it, and those that served before are `kept` until they are dropped.

A *group* is a set of instances that go through the log together: it has one position in each slice, so that events are
read once for all of them. What changes in their tables and the line's positions is written in one transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal, NewType, Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Position, Slice, ThreadId, Version
from domain.read_models.queries import Aggregate, Histogram, Select
from domain.read_models.tables import Row, Rows, Table

InstanceId = NewType("InstanceId", int)
GroupId = NewType("GroupId", int)

Status: TypeAlias = Literal["building", "serving", "kept"]


class Shape(Struct, frozen=True):
    """What a store needs to know of a projection."""

    name: str
    version: int
    tables: tuple[Table, ...]


class Instance(Struct, frozen=True):
    """A filling of a projection's tables."""

    id: InstanceId
    projection: str
    version: int
    group: GroupId
    status: Status
    created_at: datetime


class ProjectionGroup(Struct, frozen=True):
    """How far a group has come: events behind it, and events ahead of it. `throttle` is in events a second."""

    id: GroupId
    done: int
    left: int
    started_at: datetime
    throttle: int | None = None


class SliceLag(Struct, frozen=True):
    """A slice in which a group is behind: it has read up to `position`, and the slice ends at `head`."""

    slice: Slice
    position: Position
    head: Position


class Parked(Struct, frozen=True):
    """A thread that an instance leaves out, from an event on that its handlers could not take."""

    instance: InstanceId
    thread_id: ThreadId
    version: Version
    position: Position
    type: str
    error: str
    attempts: int
    at: datetime


class Move(Struct, frozen=True):
    """A group goes on in a slice, from one position to a later one."""

    slice: Slice
    after: Position
    upto: Position


class Batch(Struct, frozen=True):
    """What a line's instances make of some events, to be written at once. `parked` are all that the slices have."""

    group: GroupId
    moves: tuple[Move, ...]
    rows: Mapping[InstanceId, Rows]
    parked: frozenset[tuple[InstanceId, ThreadId]] = frozenset()
    parking: tuple[Parked, ...] = ()


class ReadModels(Protocol):
    """Tables of rows, each written by one projection."""

    async def register(self, shapes: Sequence[Shape]) -> None:
        """Make room for projections that are new, or of a new version.

        Of a projection that has no instance, or none of this version, one is made and begins to be built, in place of
        one that is being built now; in an empty store they serve at once. An instance whose version is not among
        `shapes` gets a group of its own, so that those who know it can go on with it, and others without it.
        """

    async def instances(self) -> Sequence[Instance]:
        """Return all instances, the oldest first."""

    async def groups(self) -> Sequence[ProjectionGroup]:
        """Return how far each group has come."""

    async def behind(self, group: GroupId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        """Return those of some slices in which a group is behind, in their order."""

    async def position(self, group: GroupId, slice_: Slice) -> Position:
        """Return how far a group has come in a slice."""

    async def commit(self, batch: Batch) -> bool:
        """Write a batch. False: nothing was written, since something is not as the batch was made for.

        That is so if the group is not where the batch begins, is paused or gone, or if other instances are on it than
        those of `batch.rows`, or other threads parked than `batch.parked` says.

        Raises `Unwritable` if a row cannot be stored; nothing is written then.
        """

    async def parked(self, instances: Collection[InstanceId], slices: Collection[Slice]) -> Sequence[Parked]:
        """Return what instances have parked in some slices, the longest parked first."""

    async def unpark(self, parked: Parked, upto: Position, rows: Rows, again: Parked | None) -> bool:
        """Write what a parked thread's events up to a position come to, and let it go on, or park it `again`.

        False, with nothing written, if the group is at another position of the slice, or the thread is not parked so.
        Raises `Unwritable` as `commit` does.
        """

    async def rebuild(self, shapes: Sequence[Shape], throttle: int | None = None) -> GroupId:
        """Begin to build new instances beside the old ones, on a group of their own.

        Raises `NotRebuildable` if one of them is being built already.
        """

    async def prepare(self, group: GroupId) -> None:
        """Do what takes long, and is to be done before the instances that a group builds serve."""

    async def pause(self, groups: Collection[GroupId], seconds: float) -> None:
        """Let groups write nothing for a while. When this returns, whatever they were writing is written."""

    async def switch(self, group: GroupId) -> bool:
        """Let the instances that a group builds serve in place of those that do now, which are kept, at once.

        False, with nothing changed, if the group is behind one that it is to replace in any slice, or builds nothing,
        or if somebody reads the old ones for long. Raises `NotRebuildable` if something else needs what they show.
        """

    async def roll_back(self, projection: str) -> Instance:
        """Let the instance serve again that served before.

        Raises `NotRebuildable` if there is none, if it is behind the one that serves, or if that cannot be exchanged.
        """

    async def drop(self, instance: InstanceId, *, serving: bool = False) -> None:
        """Forget an instance and its tables, even one that serves if that is said.

        Raises `NotRebuildable` if there is none, or if somebody needs its tables just now.
        """

    async def reached(self, projection: str, slice_: Slice, position: Position) -> bool:
        """Say whether the serving instance has a slice up to a position."""

    async def select(self, query: Select) -> Sequence[Row]:
        """Return rows of serving instances, in the order of the table's columns."""

    async def aggregate(self, query: Aggregate) -> Sequence[Row]:
        """Return sums over rows of serving instances."""

    async def histogram(self, query: Histogram) -> Sequence[Row]:
        """Return counts by value over rows of serving instances."""
