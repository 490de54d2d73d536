"""The event store in memory. No method awaits between its first and its last step, so each is atomic."""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Self

from msgspec.structs import replace

from domain.errors import LeaseLost, VersionConflict
from domain.ids import SLICES, CommandId, Position, Shard, Slice, Tenant, ThreadId, Version, shard_of, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Record, hashes_of
from domain.ports.archive import StoredCommand
from domain.ports.log import BEFORE_FIRST, PAGE_BYTES, Append, CommandRecord, ScannedRecords, ThreadCursor, ThreadRow


class MemoryEventStore:
    """An `EventStore` in the memory of one process."""

    def __init__(self) -> None:
        self._threads: dict[ThreadId, ThreadRow] = {}
        self._events: defaultdict[ThreadId, list[Record]] = defaultdict(list)
        self._slices: defaultdict[Slice, list[Record]] = defaultdict(list)
        self._commands: dict[tuple[Slice, CommandId], StoredCommand] = {}
        self._epochs: dict[Shard, int] = {}
        self._thread_epochs: dict[ThreadId, int] = {}

    def fence(self, shard: Shard, epoch: int) -> None:
        """Refuse appends of a shard with an older epoch from now on."""
        self._epochs[shard] = epoch

    async def check_writable(self) -> None:
        return

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Raise threads' epochs. No append is ever under way."""
        fenced = {id_: epoch for id_, epoch in epochs.items() if self._thread_epochs.get(id_, 0) <= epoch}
        self._thread_epochs |= fenced
        return fenced.keys()

    async def append(self, append: Append) -> Position:
        slice_ = slice_of(append.thread_id)
        if append.fence and append.fence.epoch < max(
            self._epochs.get(append.fence.shard, 0), self._thread_epochs.get(append.thread_id, 0)
        ):
            raise LeaseLost
        thread = self._thread_for(append)
        if append.fence:
            self._thread_epochs[append.thread_id] = append.fence.epoch
        first = Position(len(self._slices[slice_]) + 1) if append.records else BEFORE_FIRST
        placed = [replace(record, position=Position(first + i)) for i, record in enumerate(append.records)]
        self._events[append.thread_id] += placed
        self._slices[slice_] += placed
        self._threads[append.thread_id] = replace(
            thread, head=append.head, in_turn=append.in_turn, waiting=append.waiting
        )
        if append.command:
            kept = StoredCommand(append.tenant, append.thread_id, append.command, append.head.at)
            self._commands[slice_, append.command.id] = kept
        return first

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        stored = self._commands.get((slice_of(thread_id), command_id))
        return stored.command if stored else None

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        return self._threads.get(thread_id)

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = PAGE_BYTES,
    ) -> Sequence[Record]:
        # Version n is at index n - 1; in a fork, less by the versions of its parent.
        events = self._events.get(thread_id, [])
        base = events[0].version - 1 if events else 0
        first, last = max(after - base, 0), len(events) if upto is None else max(upto - base, 0)
        return _fitting(islice(events, first, last if limit is None else min(last, first + limit)), room)

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        wanted = frozenset(versions)
        return [record for record in self._events.get(thread_id, []) if record.version in wanted]

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        return _fitting(self._part(slice_, after, limit), room)

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        parts = (record for slice_, at in after.items() for record in self._part(slice_, at, limit))
        return _fitting(parts, room)

    def _part(self, slice_: Slice, after: Position, limit: int) -> Iterable[Record]:
        # Position n is at index n - 1.
        return islice(self._slices.get(slice_, []), after, after + limit)

    def head_of(self, slice_: Slice) -> int:
        """Return a slice's last position, without awaiting: for stores on the same event loop."""
        return len(self._slices.get(slice_, ()))

    async def read_slices(
        self,
        after: Mapping[Slice, Position],
        tenant: Tenant,
        types: Collection[str] | None = None,
        *,
        limit: int,
        look: int,
        room: int = PAGE_BYTES,
    ) -> ScannedRecords:
        found: list[Record] = []
        seen: dict[Slice, Position] = {}
        following = ((slice_, record) for slice_, at in after.items() for record in self._slices.get(slice_, [])[at:])
        for slice_, record in islice(following, look):
            if record.tenant == tenant and (types is None or record.type in types):
                if len(found) == limit:
                    break
                found.append(record)
                room -= len(record.payload.encode())
            seen[slice_] = record.position
            if room <= 0:
                break
        return ScannedRecords(found, seen)

    async def slice_head(self, slice_: Slice) -> Position:
        return Position(len(self._slices.get(slice_, [])))

    async def slice_heads(self) -> Sequence[Position]:
        return [Position(len(self._slices.get(Slice(number), []))) for number in range(SLICES)]

    async def hashes(self, slice_: Slice, upto: Position, after: Position = BEFORE_FIRST) -> Sequence[bytes]:
        found = self._slices.get(slice_, [])[after:upto]
        return hashes_of(slice_, after, upto, ((record.position, record.hash) for record in found))

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        ids = sorted(id_ for id_ in self._threads if slice_of(id_) == slice_ and (after is None or id_ > after))
        return [self._threads[id_] for id_ in ids[:limit]]

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        # A binary search: times never run backwards in a thread.
        earlier = bisect_right(self._events.get(thread_id, []), at, key=lambda record: record.recorded_at)
        return Version(self._threads[thread_id].base + earlier if earlier else 0)

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        rows = sorted((row for row in self._threads.values() if row.tenant == tenant), key=_age, reverse=True)
        older = (row for row in rows if after is None or _age(row) < (after.opened_at, after.thread_id))
        return list(islice(older, limit))

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        rows = [self._threads[thread_id] for thread_id in self.in_turn(shards)]
        later = (row for row in rows if after is None or _order(row.thread_id) > _order(after))
        return sorted(later, key=lambda row: _order(row.thread_id))[:limit]

    def in_turn(self, shards: Collection[Shard]) -> Sequence[ThreadId]:
        """Return the threads of some shards that have something to run: for stores on the same event loop."""
        return [id_ for id_, row in self._threads.items() if row.in_turn and shard_of(slice_of(id_)) in shards]

    def version_of(self, thread_id: ThreadId) -> Version:
        """Return a thread's last version: for stores on the same event loop."""
        return self._threads[thread_id].head.version

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        return {id_: self._threads[id_].head.version for id_ in thread_ids if id_ in self._threads}

    def empty(self) -> bool:
        return not (self._events or self._threads or self._commands)

    def commands(self) -> Sequence[StoredCommand]:
        return list(self._commands.values())

    def put(self, records: Iterable[Record]) -> None:
        """Store records with their positions, in any order. Each must have another position."""
        for record in records:
            insort(self._slices[slice_of(record.thread_id)], record, key=lambda kept: kept.position)
            insort(self._events[record.thread_id], record, key=lambda kept: kept.version)

    def put_threads(self, rows: Iterable[ThreadRow]) -> None:
        self._threads |= {row.thread_id: row for row in rows}

    def remember(self, stored: StoredCommand) -> None:
        self._commands[slice_of(stored.thread_id), stored.command.id] = stored

    def become(self, other: Self) -> None:
        """Take over the content of another store."""
        self._threads, self._commands = other._threads, other._commands
        self._events, self._slices = other._events, other._slices

    def _thread_for(self, append: Append) -> ThreadRow:
        """Return the thread for an append, as it is or new. Raises `VersionConflict`."""
        found = self._threads.get(append.thread_id)
        head, expected = (found.head if found else EMPTY_HEAD), append.expected
        known = append.command and (slice_of(append.thread_id), append.command.id) in self._commands
        moved = (head.version, head.hash) != (expected.version, expected.hash)
        if append.forked:
            moved = found is not None
        if known or moved or (found and found.tenant != append.tenant) or not (found or append.records):
            raise VersionConflict(expected.version, head.version)
        opened_at = append.records[0].recorded_at if append.records else append.head.at
        base = expected.version if append.forked else Version(0)
        return found or ThreadRow(append.tenant, append.thread_id, append.head, opened_at, append.in_turn, base=base)


def _order(thread_id: ThreadId) -> tuple[Slice, ThreadId]:
    return slice_of(thread_id), thread_id


def _age(row: ThreadRow) -> tuple[datetime, ThreadId]:
    return row.opened_at, row.thread_id


def _fitting(records: Iterable[Record], room: int) -> Sequence[Record]:
    """Take records up to the one with which their payloads reach `room` bytes."""
    taken: list[Record] = []
    for record in records:
        taken.append(record)
        room -= len(record.payload.encode())
        if room <= 0:
            break
    return taken
