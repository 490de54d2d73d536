"""The event store on PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from domain.errors import StoreUnavailable
from domain.ids import (
    MAX_VERSION,
    SLICES,
    CommandId,
    Position,
    Shard,
    Slice,
    Tenant,
    ThreadId,
    Version,
    slice_of,
    slices_of,
)
from domain.log.hash_chain import Record, hashes_of
from domain.ports.log import (
    BEFORE_FIRST,
    MAX_UNWEIGHED_RECORDS,
    PAGE_BYTES,
    CommandRecord,
    ScannedRecords,
    ThreadCursor,
    ThreadRow,
)
from infrastructure.postgres.log.group_commit import GroupCommit
from infrastructure.postgres.log.rows import record_of, thread_of
from infrastructure.postgres.retry import fetch
from infrastructure.postgres.statements import (
    COMMAND,
    FENCE,
    HASHES,
    PROBE,
    READ,
    READ_AFTER,
    READ_AT,
    READ_PAGE,
    READ_SLICE,
    READ_SLICES,
    RUNNABLE,
    SLICE_HEAD,
    SLICE_HEADS,
    THREAD,
    THREADS,
    THREADS_OF,
    VERSION_AT,
    VERSIONS,
)

RECORD_COLUMNS = len(Record.__struct_fields__)

PROBE_PAUSES = (0.02, 0.2)
"""Seconds before each new attempt of a write check: the pool may just have replaced its connections."""


class PostgresEventStore(GroupCommit):
    """An `EventStore` on a migrated database: appends by group commit, and reads.

    See `append_sql` for what it guarantees, and why.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use a pool's connections. The caller closes the pool, after this store."""
        super().__init__(pool)
        self._process = uuid4()

    async def check_writable(self) -> None:
        """Write a row in a transaction of its own. Fails also if the last appends met an unavailable store."""
        if (trouble := self.trouble()) is not None:
            raise trouble
        rows = await fetch(self._pool, PROBE, self._process, pauses=PROBE_PAUSES)
        if rows:
            missing = ", ".join(row["missing"] for row in rows)
            raise StoreUnavailable(f"The database cannot be used: the role of this process lacks {missing}.")

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Raise threads' epochs, except where the row is locked or this process is appending."""
        asked = sorted(epochs.keys() - self.under_way())
        columns = [slice_of(thread_id) for thread_id in asked], asked, [epochs[thread_id] for thread_id in asked]
        return {ThreadId(row["thread_id"]) for row in await fetch(self._pool, FENCE, *columns)} if asked else set()

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        rows = await fetch(self._pool, COMMAND, slice_of(thread_id), command_id)
        return CommandRecord(*rows[0]) if rows else None

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        rows = await fetch(self._pool, THREAD, slice_of(thread_id), thread_id)
        return thread_of(rows[0]) if rows else None

    async def read(
        self,
        thread_id: ThreadId,
        after: Version,
        upto: Version | None = None,
        limit: int | None = None,
        room: int = PAGE_BYTES,
    ) -> Sequence[Record]:
        last = MAX_VERSION if upto is None else upto
        part = (slice_of(thread_id), thread_id, after, last, limit)
        # Weighing would take a tenth of the time of so short a statement.
        if limit is not None and limit <= MAX_UNWEIGHED_RECORDS:
            rows = await fetch(self._pool, READ, *part)
        else:
            rows = await fetch(self._pool, READ_PAGE, *part, room)
        return [record_of(row) for row in rows]

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        rows = await fetch(self._pool, READ_AT, slice_of(thread_id), thread_id, list(versions))
        return [record_of(row) for row in rows]

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        return [record_of(row) for row in await fetch(self._pool, READ_SLICE, slice_, after, limit, room)]

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        slices, positions = list(after), list(after.values())
        return [record_of(row) for row in await fetch(self._pool, READ_AFTER, slices, positions, limit, room)]

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
        asked, positions = None if types is None else list(types), list(after.values())
        rows = await fetch(self._pool, READ_SLICES, list(after), positions, tenant, asked, limit, look, room)
        records = [record_of(tuple(row)[-RECORD_COLUMNS:]) for row in rows if row["wanted"]]
        seen = {Slice(row["slice"]): Position(row["seen"]) for row in rows if row["ends_slice"]}
        return ScannedRecords(records, seen)

    async def slice_head(self, slice_: Slice) -> Position:
        rows = await fetch(self._pool, SLICE_HEAD, slice_)
        return Position(rows[0]["head"])

    async def slice_heads(self) -> Sequence[Position]:
        rows = await fetch(self._pool, SLICE_HEADS)
        heads = {row["slice"]: row["head"] for row in rows}
        return [Position(heads.get(number, 0)) for number in range(SLICES)]

    async def hashes(self, slice_: Slice, upto: Position, after: Position = BEFORE_FIRST) -> Sequence[bytes]:
        rows = await fetch(self._pool, HASHES, slice_, after, upto)
        return hashes_of(slice_, after, upto, ((row["position"], row["hash"]) for row in rows))

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        rows = await fetch(self._pool, THREADS_OF, slice_, after, limit)
        return [thread_of(row) for row in rows]

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        rows = await fetch(self._pool, VERSION_AT, slice_of(thread_id), thread_id, at)
        return Version(rows[0]["version"] if rows else 0)

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        last = (after.opened_at, after.thread_id) if after else (None, None)
        rows = await fetch(self._pool, THREADS, tenant, *last, limit)
        return [thread_of(row) for row in rows]

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        slices = [slice_ for shard in shards for slice_ in slices_of(shard)]
        place = (slice_of(after), after) if after else (-1, UUID(int=0))
        return [thread_of(row) for row in await fetch(self._pool, RUNNABLE, slices, limit, *place)]

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        slices = [slice_of(thread_id) for thread_id in thread_ids]
        rows = await fetch(self._pool, VERSIONS, slices, list(thread_ids))
        return {row["thread_id"]: row["version"] for row in rows}
