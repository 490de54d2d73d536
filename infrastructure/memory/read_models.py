"""Read models in memory. No method awaits between its first and its last step, so each is atomic on its event loop."""

import itertools
import operator
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Literal

from msgspec.structs import replace

from domain.errors import NotRebuildable, StillBehind, Unwritable
from domain.ids import SLICES, Position, Slice, ThreadId, slice_of
from domain.ports.clock import Clock
from domain.ports.read_models import Batch, GroupId, Instance, InstanceId, Parked, ProjectionGroup, Shape, SliceLag
from domain.read_models.queries import Aggregate, Among, Bucket, Condition, Histogram, Select, Spanning, Where
from domain.read_models.tables import Key, Row, Rows, Table

BITS = {"smallint": 16, "integer": 32, "bigint": 64}
"""The sizes of columns of integers."""


class MemoryReadModels:
    """`ReadModels` in the memory of one process."""

    def __init__(self, heads: Callable[[Slice], int], clock: Clock) -> None:
        """Begin without projections. `heads` returns the last position of a slice of the log."""
        self._heads = heads
        self._clock = clock
        self._instances: dict[InstanceId, Instance] = {}
        self._shapes: dict[tuple[str, int], Shape] = {}
        self._lines: dict[GroupId, ProjectionGroup] = {}
        self._positions: dict[GroupId, list[int]] = {}
        self._paused: dict[GroupId, datetime] = {}
        self._parked: dict[tuple[InstanceId, ThreadId], Parked] = {}
        self._rows: defaultdict[tuple[InstanceId, str], dict[Key, Row]] = defaultdict(dict)
        self._ids = itertools.count(1)

    async def register(self, shapes: Sequence[Shape]) -> None:
        known = {(shape.name, shape.version) for shape in shapes}
        for instance in list(self._instances.values()):
            alone = [other.group for other in self._instances.values()].count(instance.group) == 1
            if (instance.projection, instance.version) not in known and not alone:
                self._instances[instance.id] = replace(instance, group=self._new_group(self._positions[instance.group]))
        there = {(instance.projection, instance.version) for instance in self._instances.values()}
        missing = [shape for shape in shapes if (shape.name, shape.version) not in there]
        first = not self._instances
        for instance in list(self._instances.values()):
            if instance.status == "building" and instance.projection in {shape.name for shape in missing}:
                self._forget(instance)
        if missing:
            self._begin(missing, "serving" if first else "building")

    async def instances(self) -> Sequence[Instance]:
        return list(self._instances.values())

    async def groups(self) -> Sequence[ProjectionGroup]:
        return [
            replace(group, done=sum(self._positions[group.id]), left=sum(self._lag(group.id, s) for s in range(SLICES)))
            for group in self._lines.values()
        ]

    async def behind(self, group: GroupId, slices: Collection[Slice]) -> Sequence[SliceLag]:
        return [
            SliceLag(slice_, Position(self._positions[group][slice_]), Position(self._heads(slice_)))
            for slice_ in sorted(slices)
            if group in self._positions and self._lag(group, slice_)
        ]

    async def position(self, group: GroupId, slice_: Slice) -> Position:
        return Position(self._positions[group][slice_])

    async def commit(self, batch: Batch) -> bool:
        """Check all preconditions and rows, then write."""
        positions = self._positions.get(batch.group)
        slices = {move.slice for move in batch.moves}
        paused_until = self._paused.get(batch.group)
        if positions is None or (paused_until and paused_until > self._clock.now()):
            return False
        here = {i.id for i in self._instances.values() if i.group == batch.group}
        parked = {key for key in self._parked if key[0] in here and slice_of(key[1]) in slices}
        moved = any(positions[move.slice] != move.after for move in batch.moves)
        if here != batch.rows.keys() or parked != batch.parked or moved:
            return False
        for rows in batch.rows.values():
            _check(rows)
        for move in batch.moves:
            positions[move.slice] = move.upto
        for one in batch.parking:
            self._parked[one.instance, one.thread_id] = one
        for instance, rows in batch.rows.items():
            self._write(instance, rows)
        return True

    async def parked(self, instances: Collection[InstanceId], slices: Collection[Slice]) -> Sequence[Parked]:
        found = [
            one for one in self._parked.values() if one.instance in instances and slice_of(one.thread_id) in slices
        ]
        return sorted(found, key=lambda one: one.at)

    async def unpark(self, parked: Parked, upto: Position, rows: Rows, again: Parked | None) -> bool:
        key = parked.instance, parked.thread_id
        instance = self._instances.get(parked.instance)
        if self._parked.get(key) != parked or instance is None:
            return False
        if self._positions[instance.group][slice_of(parked.thread_id)] != upto:
            return False
        _check(rows)
        self._write(parked.instance, rows)
        if again:
            self._parked[key] = again
        else:
            del self._parked[key]
        return True

    async def rebuild(self, shapes: Sequence[Shape], throttle: int | None = None) -> GroupId:
        building = {i.projection for i in self._instances.values() if i.status == "building"}
        for shape in shapes:
            if shape.name in building:
                raise NotRebuildable(f"{shape.name} is already being built. Wait for it, or drop it.")
        return self._begin(shapes, "building", throttle)

    async def prepare(self, group: GroupId) -> None:
        """Do nothing: every query scans all rows."""

    async def pause(self, groups: Collection[GroupId], seconds: float) -> None:
        self._paused |= dict.fromkeys(groups, self._clock.now() + timedelta(seconds=seconds))

    async def switch(self, group: GroupId) -> bool:
        building = [i for i in self._instances.values() if i.group == group and i.status == "building"]
        names = {i.projection for i in building}
        old = {i.group for i in self._instances.values() if i.projection in names and i.status == "serving"}
        mine = self._positions[group]
        if not building or any(mine[s] < self._positions[o][s] for o in old for s in range(SLICES)):
            return False
        for instance in building:
            self._serve(instance)
        for other in old:
            self._paused.pop(other, None)
        return True

    async def roll_back(self, projection: str) -> Instance:
        of = [i for i in self._instances.values() if i.projection == projection]
        kept = [i for i in of if i.status == "kept"]
        serving = next((i for i in of if i.status == "serving"), None)
        if not kept or serving is None:
            raise NotRebuildable(f"No older instance of {projection} is kept.")
        now, then = self._positions[serving.group], self._positions[kept[-1].group]
        if any(now[s] > then[s] for s in range(SLICES)):
            raise StillBehind
        return self._serve(kept[-1])

    async def drop(self, instance: InstanceId, *, serving: bool = False) -> None:
        found = self._instances.get(instance)
        if found is None or (found.status == "serving" and not serving):
            raise NotRebuildable(f"Instance {instance} serves or does not exist. Only others can be dropped.")
        self._forget(found)

    async def reached(self, projection: str, slice_: Slice, position: Position) -> bool:
        serving = [i for i in self._instances.values() if i.projection == projection and i.status == "serving"]
        return bool(serving) and self._positions[serving[0].group][slice_] >= position

    async def select(self, query: Select) -> Sequence[Row]:
        table, order = query.table, [query.table.names.index(name) for name in query.order]
        rows = self.searched(table, query.where)
        rows.sort(key=lambda row: [row[place] for place in order], reverse=query.descending)
        if query.after is not None:
            mark, follows = list(query.after), operator.lt if query.descending else operator.gt
            rows = [row for row in rows if follows([row[place] for place in order], mark)]
        readable = [column.kind != "words" for column in table.columns]  # words can be searched, not read
        return [
            tuple(value if shown else None for shown, value in zip(readable, row, strict=True))
            for row in rows[: query.limit]
        ]

    async def aggregate(self, query: Aggregate) -> Sequence[Row]:
        names = query.table.names
        groups = [names.index(name) for name in query.group_by]
        sums, at = [names.index(name) for name in query.sums], names.index(query.at) if query.bucket else 0
        totals: dict[Key, list[int]] = {}
        for row in self.searched(query.table, query.where):
            bucket = (_bucket(query.bucket, row[at]),) if query.bucket else ()
            total = totals.setdefault((*bucket, *(row[place] for place in groups)), [0] * len(sums))
            for index, place in enumerate(sums):
                total[index] += row[place]
        if not query.group_by and not query.bucket:
            totals.setdefault((), [0] * len(sums))
        most = [query.sums.index(name) for name in query.most]
        order = sorted(totals, key=lambda key: (*(-totals[key][place] for place in most), *key))
        return [(*key, *totals[key]) for key in order][: query.limit]

    async def histogram(self, query: Histogram) -> Sequence[Row]:
        """Sum by group and value, then collect each group's values."""
        groups = (*query.group_by, query.column)
        by_value = Aggregate(query.table, (query.count,), query.where, groups, query.bucket, query.at, sys.maxsize)
        gathered: dict[Key, dict[int, int]] = {}
        for *group, value, count in await self.aggregate(by_value):
            gathered.setdefault(tuple(group), {})[value] = count
        return [(*group, counts) for group, counts in gathered.items()][: query.limit]

    def searched(self, table: Table, where: Iterable[Condition]) -> list[Row]:
        """Return rows of the serving instance, including the `words` columns, which `select` leaves out."""
        serving = (i for i in self._instances.values() if i.status == "serving")
        ids = [i.id for i in serving if table.name in {t.name for t in self._shapes[i.projection, i.version].tables}]
        rows = [row for id_ in ids for row in self._rows.get((id_, table.name), {}).values()]
        for condition in where:
            rows = list(filter(self._meeting(table, condition), rows))
        return rows

    def _meeting(self, table: Table, condition: Condition) -> Callable[[Row], bool]:
        """Return a function that tests a row for a condition."""
        match condition:
            case Spanning(since, until, at):
                begin, end = table.names.index(since), table.names.index(until)
                return lambda row: bool(row[begin] <= at and (row[end] is None or row[end] > at))
            case Among(columns, other, where):
                of_other, own = (itemgetter(*map(names.index, columns)) for names in (other.names, table.names))
                found = set(map(of_other, self.searched(other, where)))
                return lambda row: own(row) in found
            case Where(column, comparison, wanted):
                place = table.names.index(column)
                return lambda row: _compares(row[place], comparison, wanted)

    def _write(self, instance: InstanceId, rows: Rows) -> None:
        for table in rows.tables:
            there = self._rows[instance, table.name]
            for row in rows.of(table):
                key = table.key_of(row)
                there[key] = table.merge(there[key], row) if key in there else row

    def _begin(
        self, shapes: Sequence[Shape], status: Literal["serving", "building"], throttle: int | None = None
    ) -> GroupId:
        """Add a group with an instance of each shape."""
        group, now = self._new_group(throttle=throttle), self._clock.now()
        for shape in shapes:
            id_ = InstanceId(next(self._ids))
            self._shapes[shape.name, shape.version] = shape
            self._instances[id_] = Instance(id_, shape.name, shape.version, group, status, now)
        return group

    def _serve(self, instance: Instance) -> Instance:
        for other in list(self._instances.values()):
            if other.projection == instance.projection and other.status == "serving":
                self._instances[other.id] = replace(other, status="kept")
        self._instances[instance.id] = replace(instance, status="serving")
        return self._instances[instance.id]

    def _forget(self, instance: Instance) -> None:
        del self._instances[instance.id]
        self._rows = defaultdict(dict, {key: rows for key, rows in self._rows.items() if key[0] != instance.id})
        self._parked = {key: one for key, one in self._parked.items() if key[0] != instance.id}
        if not any(other.group == instance.group for other in self._instances.values()):
            del self._lines[instance.group], self._positions[instance.group]

    def _new_group(self, positions: Sequence[int] = (0,) * SLICES, throttle: int | None = None) -> GroupId:
        id_ = GroupId(next(self._ids))
        self._positions[id_] = list(positions)
        self._lines[id_] = ProjectionGroup(id_, 0, 0, self._clock.now(), throttle)
        return id_

    def _lag(self, group: GroupId, slice_: int) -> int:
        return self._heads(Slice(slice_)) - self._positions[group][slice_]


def _check(rows: Rows) -> None:
    """Raise `Unwritable` for numbers that PostgreSQL does not take either."""
    for table in rows.tables:
        bounds = [BITS.get(column.kind) for column in table.columns]
        for row in rows.of(table):
            for bits, value in zip(bounds, row, strict=True):
                if bits and value is not None and value.bit_length() >= bits:
                    raise Unwritable(table.name, f"{value} is out of range")


def _compares(value: Any, comparison: str, wanted: Any) -> bool:
    match comparison:
        case "=":
            return bool(value == wanted)
        case "!=":
            return bool(value != wanted)
        case "in":
            return value in wanted
        case "matches":
            words = frozenset((value or "").split(" "))
            return all(any(words.issuperset(row) for row in group) for group in wanted)
        case "begins":
            return str(value or "").startswith(wanted)
    if value is None:
        return False
    return bool({"<": value < wanted, "<=": value <= wanted, ">": value > wanted, ">=": value >= wanted}[comparison])


def _bucket(width: Bucket, at: datetime) -> datetime:
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match width:
        case "hour":
            return at.replace(minute=0, second=0, microsecond=0)
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
