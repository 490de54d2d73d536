"""The event store on PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from domain.errors import StoreUnavailable
from domain.ids import MAX_VERSION, SLICES, CommandId, Position, Shard, Slice, Tenant, ThreadId, Version, slice_of
from domain.log.hash_chain import Head, Record, hashes_of
from domain.ports.log import (
    BEFORE_FIRST,
    MAX_UNWEIGHED_RECORDS,
    PAGE_BYTES,
    CommandRecord,
    ScannedRecords,
    ThreadCursor,
    ThreadRow,
)
from infrastructure.postgres import statements
from infrastructure.postgres.log.group_commit import GroupCommit
from infrastructure.postgres.thread_columns import slices_in, thread_columns

RECORD_COLUMNS = len(Record.__struct_fields__)

PROBE_PAUSES = (0.02, 0.2)
"""Seconds before each new attempt of a write check: the pool may just have replaced its connections."""


def thread_of(row: asyncpg.Record) -> ThreadRow:
    """Build a thread from a row with the columns of `THREAD_ROW`."""
    tenant, thread_id, version, digest, at, *rest = row
    return ThreadRow(tenant, thread_id, Head(version, digest, at), *rest[:4])


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
        rows = await self._fetch(statements.PROBE, self._process, pauses=PROBE_PAUSES)
        if rows:
            missing = ", ".join(row["missing"] for row in rows)
            raise StoreUnavailable(f"The database cannot be used: the role of this process lacks {missing}.")

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Raise threads' epochs, except where the row is locked or this process is appending."""
        asked = thread_columns((thread_id, epochs[thread_id]) for thread_id in sorted(epochs.keys() - self.under_way()))
        rows = await self._fetch(statements.FENCE, *asked) if asked[0] else ()
        return {ThreadId(row["thread_id"]) for row in rows}

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        rows = await self._fetch(statements.COMMAND, slice_of(thread_id), command_id)
        return CommandRecord(*rows[0]) if rows else None

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        rows = await self._fetch(statements.THREAD, slice_of(thread_id), thread_id)
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
            rows = await self._fetch(statements.READ, *part)
        else:
            rows = await self._fetch(statements.READ_PAGE, *part, room)
        return [Record(*row) for row in rows]

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        key = slice_of(thread_id), thread_id
        return [Record(*row) for row in await self._fetch(statements.READ_AT, *key, list(versions))]

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        return [Record(*row) for row in await self._fetch(statements.READ_SLICE, slice_, after, limit, room)]

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        slices, positions = list(after), list(after.values())
        return [Record(*row) for row in await self._fetch(statements.READ_AFTER, slices, positions, limit, room)]

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
        rows = await self._fetch(statements.READ_SLICES, list(after), positions, tenant, asked, limit, look, room)
        records = [Record(*tuple(row)[-RECORD_COLUMNS:]) for row in rows if row["wanted"]]
        seen = {Slice(row["slice"]): Position(row["seen"]) for row in rows if row["ends_slice"]}
        return ScannedRecords(records, seen)

    async def slice_head(self, slice_: Slice) -> Position:
        (row,) = await self._fetch(statements.SLICE_HEAD, slice_)
        return Position(row["head"])

    async def slice_heads(self) -> Sequence[Position]:
        heads = {row["slice"]: row["head"] for row in await self._fetch(statements.SLICE_HEADS)}
        return [Position(heads.get(number, 0)) for number in range(SLICES)]

    async def hashes(self, slice_: Slice, upto: Position, after: Position = BEFORE_FIRST) -> Sequence[bytes]:
        rows = await self._fetch(statements.HASHES, slice_, after, upto)
        return hashes_of(slice_, after, upto, ((row["position"], row["hash"]) for row in rows))

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        return [thread_of(row) for row in await self._fetch(statements.THREADS_OF, slice_, after, limit)]

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        rows = await self._fetch(statements.VERSION_AT, slice_of(thread_id), thread_id, at)
        return Version(rows[0]["version"] if rows else 0)

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        last = (after.opened_at, after.thread_id) if after else (None, None)
        return [thread_of(row) for row in await self._fetch(statements.THREADS, tenant, *last, limit)]

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        place = (slice_of(after), after) if after else (-1, UUID(int=0))
        return [thread_of(row) for row in await self._fetch(statements.RUNNABLE, slices_in(shards), limit, *place)]

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        slices = [slice_of(thread_id) for thread_id in thread_ids]
        rows = await self._fetch(statements.VERSIONS, slices, list(thread_ids))
        return {row["thread_id"]: row["version"] for row in rows}
