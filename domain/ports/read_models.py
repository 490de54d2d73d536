"""The port to the store of read models: their instances and positions, their rows, and queries.

An *instance* is one build of a projection's tables. At most one of each projection is `serving`: queries read that one.
Another one may be `building`. Those that served before are `kept` until they are dropped.

A *group* is a set of instances that read the log together. It has one position in each slice, so each event is read
once for all of them. Their rows and its positions are written in one transaction. In SQL and HTTP it is a `line`.
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
    """One build of a projection's tables."""

    id: InstanceId
    projection: str
    version: int
    group: GroupId
    status: Status
    created_at: datetime


class ProjectionGroup(Struct, frozen=True):
    """A group's progress: the numbers of events read and still to read. `throttle` is in events a second."""

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
    """A thread that an instance leaves out from the event on that its handler could not process."""

    instance: InstanceId
    thread_id: ThreadId
    version: Version
    position: Position
    type: str
    error: str
    attempts: int
    at: datetime


class Move(Struct, frozen=True):
    """A group's step in a slice: the positions after `after`, up to `upto`."""

    slice: Slice
    after: Position
    upto: Position


class Batch(Struct, frozen=True):
    """The rows of some events, and the group's new positions. `parked` are all parked threads of the slices."""

    group: GroupId
    moves: tuple[Move, ...]
    rows: Mapping[InstanceId, Rows]
    parked: frozenset[tuple[InstanceId, ThreadId]] = frozenset()
    parking: tuple[Parked, ...] = ()


class ReadModels(Protocol):
    """Tables of rows, each written by one projection."""

    async def register(self, shapes: Sequence[Shape]) -> None:
        """Create an instance of each projection that has none of its version.

        It begins to be built, in place of one that is being built now. In an empty store all of them serve at once. An
        instance whose version is not among `shapes` gets a group of its own, so that processes that know it can advance
        it, and others can advance the rest.
        """

    async def instances(self) -> Sequence[Instance]:
        """Return all instances, the oldest first."""

    async def groups(self) -> Sequence[ProjectionGroup]:
        """Return the groups and their progress."""

    async def behind(self, group: GroupId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        """Return those of some slices in which a group is behind, in ascending order."""

    async def position(self, group: GroupId, slice_: Slice) -> Position:
        """Return a group's position in a slice."""

    async def commit(self, batch: Batch) -> bool:
        """Write a batch in one transaction. False: nothing was written, because a precondition does not hold.

        The group must be at the positions where the batch begins, and neither paused nor gone. Its instances must be
        those of `batch.rows`, and the parked threads those of `batch.parked`.

        Raises `Unwritable` if a row cannot be stored; then nothing is written either.
        """

    async def parked(self, instances: Collection[InstanceId], slices: Collection[Slice]) -> Sequence[Parked]:
        """Return the parked threads of instances in some slices, the longest parked first."""

    async def unpark(self, parked: Parked, upto: Position, rows: Rows, again: Parked | None) -> bool:
        """Write the rows of a parked thread's events up to a position, and unpark it, or park it `again`.

        False, with nothing written, if the group has another position in the slice, or if the thread is not parked with
        this version and number of attempts. Raises `Unwritable` as `commit` does.
        """

    async def rebuild(self, shapes: Sequence[Shape], throttle: int | None = None) -> GroupId:
        """Begin to build new instances in a group of their own, while the old ones serve.

        Raises `NotRebuildable` if one of them is already being built.
        """

    async def prepare(self, group: GroupId) -> None:
        """Do the slow work that has to precede `switch`."""

    async def pause(self, groups: Collection[GroupId], seconds: float) -> None:
        """Refuse writes of groups for some seconds. When this returns, no write of theirs is in progress."""

    async def switch(self, group: GroupId) -> bool:
        """Let the instances that a group builds serve, all at once. Those that they replace are kept.

        False, with nothing changed, if the group builds nothing, if it is behind one that it replaces in any slice, or
        if a long query reads the old ones. Raises `NotRebuildable` if another view depends on the old ones.
        """

    async def roll_back(self, projection: str) -> Instance:
        """Let the instance that served before serve again.

        Raises `NotRebuildable` if there is none, or if a long query or another view needs the one that serves;
        `StillBehind` if it is behind that one.
        """

    async def drop(self, instance: InstanceId, *, serving: bool = False) -> None:
        """Delete an instance and its tables. One that serves is deleted only with `serving`.

        Raises `NotRebuildable` if it is not deleted, or if a long query or another view needs its tables.
        """

    async def reached(self, projection: str, slice_: Slice, position: Position) -> bool:
        """Whether the serving instance has reached a position of a slice."""

    async def select(self, query: Select) -> Sequence[Row]:
        """Return rows of serving instances, in the order of the table's columns."""

    async def aggregate(self, query: Aggregate) -> Sequence[Row]:
        """Return sums over rows of serving instances."""

    async def histogram(self, query: Histogram) -> Sequence[Row]:
        """Return counts by value over rows of serving instances."""
