"""Inserts the rows of events and nothing else: no hash is computed, no version checked, no head moved.

The rows go into the same table, with the same indexes. Positions are counted here, which only one writer could do.
Our own appender makes the groups, and sends one statement that only inserts, or a COPY, for each. With `--alone 1`
each batch has a commit of its own, and a connection is there for each stream.
"""

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import uvloop
from uuid_utils.compat import uuid7

from benchmarks import append_load
from benchmarks.side_by_side.figures import Figures, options, say
from domain.ids import DEFAULT_TENANT, Position, ThreadId, Version, slice_of
from domain.log.hash_chain import EMPTY_HEAD, Draft, Record
from domain.ports.log import Append
from infrastructure.postgres.archive import EVENT_COLUMNS
from infrastructure.postgres.log.group_commit import GroupCommit
from infrastructure.postgres.log.metadata_columns import split_metadata
from infrastructure.postgres.pool import open_pool
from migrations.run import migrate

Store: TypeAlias = Callable[[Sequence[Append]], Awaitable[None]]

INSERT = """
INSERT INTO events (slice, position, tenant, thread_id, version, type, schema, payload, metadata, causation,
                    recorded_at, hash)
SELECT *
  FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::uuid[], $5::integer[], $6::text[], $7::smallint[],
              $8::json[], $9::json[], $10::uuid[], $11::timestamptz[], $12::bytea[])
"""

HASH = bytes(range(32))


class Grouped(GroupCommit):
    """Makes the groups that our appender makes, and does something else with them."""

    def __init__(self, pool: asyncpg.Pool, store: Store) -> None:
        super().__init__(pool)
        self.store = store

    async def _write_group(self, group: Sequence[Any]) -> None:
        await self.store([waiting.item for waiting in group])
        for waiting in group:
            self._answer(waiting, Position(0))


@dataclass
class Inserting:
    """Makes rows and has them stored."""

    append: Callable[[Append], Awaitable[object]]
    positions: Counter[int] = field(default_factory=Counter)

    def stream(self) -> append_load.Append:
        """Begin a stream."""
        thread_id, version = ThreadId(uuid7()), 0
        slice_, positions = slice_of(thread_id), self.positions

        async def append(drafts: Sequence[Draft]) -> None:
            nonlocal version
            at, before = datetime.now(UTC), positions[slice_]
            records = tuple(
                Record(
                    *(DEFAULT_TENANT, thread_id, Version(version + number), draft.type, draft.schema),
                    *(draft.payload, draft.metadata, at, HASH, Position(before + number)),
                )
                for number, draft in enumerate(drafts, 1)
            )
            positions[slice_] += len(records)
            version += len(records)
            await self.append(Append(DEFAULT_TENANT, thread_id, EMPTY_HEAD, EMPTY_HEAD, records, in_turn=False))

        return append


def storing(pool: asyncpg.Pool, how: str) -> Store:
    """Return what stores the rows of some appends in one commit."""

    async def insert(appends: Sequence[Append]) -> None:
        await pool.execute(INSERT, *map(list, zip(*rows(appends), strict=True)))

    async def copy(appends: Sequence[Append]) -> None:
        await pool.copy_records_to_table("events", records=rows(appends), columns=EVENT_COLUMNS)

    return copy if how == "copy" else insert


def rows(appends: Sequence[Append]) -> Sequence[tuple[Any, ...]]:
    """List the columns of events."""
    return [
        (
            *(slice_of(r.thread_id), r.position, r.tenant, r.thread_id, r.version, r.type, r.schema),
            *(r.payload, *split_metadata(r.metadata), r.recorded_at, r.hash),
        )
        for append in appends
        for r in append.records
    ]


async def main(arguments: argparse.Namespace) -> Figures:
    await migrate(arguments.database)
    most = max(arguments.streams)
    pool = await open_pool(arguments.database, max_size=most)
    store = storing(pool, arguments.how)
    if arguments.alone:
        await append_load.connected(pool, most)
        inserting = Inserting(lambda append: store([append]))
    else:
        inserting = Inserting(Grouped(pool, store).append)
    figures = await append_load.measure(inserting, arguments)
    await pool.close()
    return figures


if __name__ == "__main__":
    say(uvloop.run(main(options(**append_load.OPTIONS, how=str, alone=int))))
