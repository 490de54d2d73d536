"""Appends through Threadfold's event store: hash chain, version check, ordering in slices, and a command each.

python -m benchmarks.contestants.append_threadfold --database URL [--no-commands]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import uvloop
from uuid_utils.compat import uuid7

from benchmarks import append_load
from benchmarks.side_by_side.figures import Figures, options, say
from domain.ids import DEFAULT_TENANT, CommandId, ThreadId
from domain.log.hash_chain import EMPTY_HEAD, Draft, chain_records
from domain.ports.log import Append, CommandRecord
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool
from migrations.run import migrate

CONNECTIONS = 20
"""What `MAX_CONNECTIONS` is unless told otherwise."""

REQUEST = bytes(range(32))


@dataclass(frozen=True)
class Threadfold:
    """Appends to the log."""

    store: PostgresEventStore
    commands: bool

    def stream(self) -> append_load.Append:
        """Begin a thread."""
        thread_id, head = ThreadId(uuid7()), EMPTY_HEAD

        async def append(drafts: Sequence[Draft]) -> None:
            nonlocal head
            records, after = chain_records(DEFAULT_TENANT, thread_id, head, drafts, datetime.now(UTC))
            command = CommandRecord(CommandId(uuid4()), REQUEST, '{"checkpoint":1}') if self.commands else None
            await self.store.append(Append(DEFAULT_TENANT, thread_id, head, after, records, False, command))  # noqa: FBT003
            head = after

        return append


async def main(arguments: argparse.Namespace) -> Figures:
    await migrate(arguments.database)
    pool = await open_pool(arguments.database, max_size=CONNECTIONS)
    store = PostgresEventStore(pool)
    threadfold = Threadfold(store, bool(arguments.commands))
    figures = await append_load.measure(threadfold, arguments)
    await store.close()
    await pool.close()
    return figures


if __name__ == "__main__":
    say(uvloop.run(main(options(**append_load.OPTIONS, commands=int))))
