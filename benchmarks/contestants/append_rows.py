"""Inserts the rows of events and nothing else: no hash is computed, no version checked, no head moved.

    python -m benchmarks.contestants.append_rows --database URL [--how insert|copy] [--alone]

The rows go into the same table, with the same indexes. Positions are counted here, which only one writer could do.
They come in the same groups as our appender makes, or with `--alone` each batch in a commit of its own.
"""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import uvloop
from uuid_utils.compat import uuid7

from benchmarks import append_load
from domain.chain import Draft
from domain.ids import DEFAULT_TENANT, ThreadId, slice_of
from infrastructure.postgres.archive import EVENT_COLUMNS
from infrastructure.postgres.pool import open_pool
from migrations.run import migrate

Rows: TypeAlias = Sequence[tuple[Any, ...]]

INSERT = """
INSERT INTO events (slice, position, tenant, thread_id, version, type, schema, payload, metadata, recorded_at, hash)
SELECT *
  FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::uuid[], $5::integer[], $6::text[], $7::smallint[],
              $8::json[], $9::json[], $10::timestamptz[], $11::bytea[])
"""

HASH = bytes(range(32))


@dataclass
class Inserting:
    """Stores rows."""

    store: Callable[[Rows], Awaitable[None]]
    alone: bool
    positions: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.groups = append_load.Groups(self._together)

    async def _together(self, group: Sequence[Rows]) -> None:
        await self.store([*itertools.chain.from_iterable(group)])

    def stream(self) -> append_load.Append:
        """Begin a stream."""
        thread_id, version = ThreadId(uuid7()), 0
        slice_, positions = slice_of(thread_id), self.positions

        async def append(drafts: Sequence[Draft]) -> None:
            nonlocal version
            at, before, rows = datetime.now(UTC), positions[slice_], []
            for number, draft in enumerate(drafts, 1):
                place = (slice_, before + number, DEFAULT_TENANT, thread_id, version + number)
                rows.append((*place, draft.type, draft.schema, draft.payload, draft.metadata, at, HASH))
            positions[slice_] += len(rows)
            version += len(rows)
            await (self.store(rows) if self.alone else self.groups.append(rows))

        return append


async def main(what: append_load.Asked, how: str, *, alone: bool) -> None:
    await migrate(what.database)
    pool = await open_pool(what.database, max_size=max(what.streams))
    await append_load.connected(pool, max(what.streams) if alone else append_load.Groups.at_once)
    append_load.tell(await append_load.measure(Inserting(storing(pool, how), alone), what))
    await pool.close()


def storing(pool: asyncpg.Pool, how: str) -> Callable[[Rows], Awaitable[None]]:
    """Return what stores rows in a commit of their own."""

    async def insert(rows: Rows) -> None:
        await pool.execute(INSERT, *map(list, zip(*rows, strict=True)))

    async def copy(rows: Rows) -> None:
        await pool.copy_records_to_table("events", records=rows, columns=EVENT_COLUMNS)

    return copy if how == "copy" else insert


if __name__ == "__main__":
    parser = append_load.parser(__doc__)
    parser.add_argument("--how", choices=["insert", "copy"], default="insert")
    parser.add_argument("--alone", action="store_true", help="a commit for each batch, of up to 64 at the same time")
    given = parser.parse_args()
    uvloop.run(main(append_load.asked(given), given.how, alone=given.alone))
