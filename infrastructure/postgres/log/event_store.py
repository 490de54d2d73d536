"""The log on PostgreSQL."""

from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any
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
from domain.ports.log import FEW, NOWHERE, PAGE_BYTES, Append, CommandRecord, Stretch, ThreadCursor, ThreadRow
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
"""Seconds before each new attempt to write for a check: connections may just have been replaced."""


class PostgresEventStore:
    """An `EventStore` on a migrated database. See `append_statement` for what it guarantees, and why."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use a pool's connections. Whoever opened it closes it, after this."""
        self._pool = pool
        self._appender = GroupCommit(pool)
        self._process = uuid4()

    async def close(self) -> None:
        """Wait until everything that is under way is stored or refused."""
        await self._appender.close()

    def append(self, append: Append) -> Coroutine[Any, Any, Position]:
        """Store an append, together with others that come at the same time."""
        return self._appender.append(append)

    async def check_writable(self) -> None:
        """Write a row in a transaction of its own; and recall what became of the last appends."""
        if (trouble := self._appender.trouble()) is not None:
            raise trouble
        rows = await fetch(self._pool, PROBE, self._process, pauses=PROBE_PAUSES)
        if rows:
            missing = ", ".join(row["missing"] for row in rows)
            raise StoreUnavailable(f"The database cannot be used: the role of this process lacks {missing}.")

    async def fence_threads(self, epochs: Mapping[ThreadId, int]) -> Collection[ThreadId]:
        """Raise threads' epochs, but for those whose rows are locked or that this process appends to."""
        asked = sorted(epochs.keys() - self._appender.under_way())
        columns = [slice_of(thread_id) for thread_id in asked], asked, [epochs[thread_id] for thread_id in asked]
        return {ThreadId(row["thread_id"]) for row in await fetch(self._pool, FENCE, *columns)} if asked else set()

    async def command(self, thread_id: ThreadId, command_id: CommandId) -> CommandRecord | None:
        """Look a command up."""
        rows = await fetch(self._pool, COMMAND, slice_of(thread_id), command_id)
        return CommandRecord(*rows[0]) if rows else None

    async def thread(self, thread_id: ThreadId) -> ThreadRow | None:
        """Look a thread's head up."""
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
        """Read a part of a thread."""
        last = MAX_VERSION if upto is None else upto
        part = (slice_of(thread_id), thread_id, after, last, limit)
        if limit is not None and limit <= FEW:  # weighing takes a tenth of the time of so short a statement
            rows = await fetch(self._pool, READ, *part)
        else:
            rows = await fetch(self._pool, READ_PAGE, *part, room)
        return [record_of(row) for row in rows]

    async def read_at(self, thread_id: ThreadId, versions: Collection[int]) -> Sequence[Record]:
        """Read records of a thread, wherever in it they are."""
        rows = await fetch(self._pool, READ_AT, slice_of(thread_id), thread_id, list(versions))
        return [record_of(row) for row in rows]

    async def read_slice(self, slice_: Slice, after: Position, limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Read a part of a slice."""
        return [record_of(row) for row in await fetch(self._pool, READ_SLICE, slice_, after, limit, room)]

    async def read_after(self, after: Mapping[Slice, Position], limit: int, room: int = PAGE_BYTES) -> Sequence[Record]:
        """Read parts of slices in one statement."""
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
    ) -> Stretch:
        """Look through some slices, in one statement."""
        asked, positions = None if types is None else list(types), list(after.values())
        rows = await fetch(self._pool, READ_SLICES, list(after), positions, tenant, asked, limit, look, room)
        records = [record_of(tuple(row)[-RECORD_COLUMNS:]) for row in rows if row["wanted"]]
        return Stretch(records, {Slice(row["slice"]): Position(row["seen"]) for row in rows if row["ends_slice"]})

    async def slice_head(self, slice_: Slice) -> Position:
        """Look a slice's head up."""
        rows = await fetch(self._pool, SLICE_HEAD, slice_)
        return Position(rows[0]["head"])

    async def slice_heads(self) -> Sequence[Position]:
        """Look all slices' heads up."""
        rows = await fetch(self._pool, SLICE_HEADS)
        heads = {row["slice"]: row["head"] for row in rows}
        return [Position(heads.get(number, 0)) for number in range(SLICES)]

    async def hashes(self, slice_: Slice, upto: Position, after: Position = NOWHERE) -> Sequence[bytes]:
        """Read a part of a slice's hashes."""
        rows = await fetch(self._pool, HASHES, slice_, after, upto)
        return hashes_of(slice_, after, upto, ((row["position"], row["hash"]) for row in rows))

    async def threads_of(self, slice_: Slice, after: ThreadId | None, limit: int) -> Sequence[ThreadRow]:
        """List a page of a slice's threads."""
        rows = await fetch(self._pool, THREADS_OF, slice_, after, limit)
        return [thread_of(row) for row in rows]

    async def version_at(self, thread_id: ThreadId, at: datetime) -> Version:
        """Search for an instant by halving."""
        rows = await fetch(self._pool, VERSION_AT, slice_of(thread_id), thread_id, at)
        return Version(rows[0]["version"] if rows else 0)

    async def threads(self, tenant: Tenant, after: ThreadCursor | None, limit: int) -> Sequence[ThreadRow]:
        """List a page of a tenant's threads."""
        last = (after.opened_at, after.thread_id) if after else (None, None)
        rows = await fetch(self._pool, THREADS, tenant, *last, limit)
        return [thread_of(row) for row in rows]

    async def runnable(
        self, shards: Collection[Shard], limit: int, after: ThreadId | None = None
    ) -> Sequence[ThreadRow]:
        """List threads that have something to run."""
        slices = [slice_ for shard in shards for slice_ in slices_of(shard)]
        place = (slice_of(after), after) if after else (-1, UUID(int=0))
        return [thread_of(row) for row in await fetch(self._pool, RUNNABLE, slices, limit, *place)]

    async def versions(self, thread_ids: Collection[ThreadId]) -> Mapping[ThreadId, Version]:
        """Look heads up."""
        slices = [slice_of(thread_id) for thread_id in thread_ids]
        rows = await fetch(self._pool, VERSIONS, slices, list(thread_ids))
        return {row["thread_id"]: row["version"] for row in rows}
