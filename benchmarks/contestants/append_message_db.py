"""Appends with message-db's function `write_message`, a call for each event; the calls of a batch are one transaction.

`--sql` names the folder `database` of a checkout of github.com/message-db/message-db. Streams are of one category,
whose lock each transaction holds until its commit: that is how message-db orders events.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import uvloop

from benchmarks import append_load
from benchmarks.side_by_side.figures import Figures, options, say
from domain.log.hash_chain import Draft

FILES = (  # without the extension: what it was needed for, PostgreSQL 13 and later have
    *("schema/message-store.sql", "tables/messages.sql", "types/message.sql"),
    *("functions/hash-64.sql", "functions/acquire-lock.sql", "functions/category.sql", "functions/is-category.sql"),
    *("functions/id.sql", "functions/cardinal-id.sql", "functions/stream-version.sql", "functions/write-message.sql"),
    *("indexes/messages-id.sql", "indexes/messages-stream.sql", "indexes/messages-category.sql"),
)

SESSION = {"search_path": "message_store,public"}

WRITE = "SELECT write_message($1, $2, $3, $4, $5, $6)"


@dataclass(frozen=True)
class MessageDb:
    """Writes messages."""

    pool: asyncpg.Pool

    def stream(self) -> append_load.Append:
        """Begin a stream."""
        name, version = f"thread-{uuid4()}", -1

        async def append(drafts: Sequence[Draft]) -> None:
            nonlocal version
            calls = [
                (str(uuid4()), name, draft.type, draft.payload, draft.metadata, version + number)
                for number, draft in enumerate(drafts)
            ]
            await self.pool.executemany(WRITE, calls)
            version += len(calls)

        return append


async def main(arguments: argparse.Namespace) -> Figures:
    connection = await asyncpg.connect(arguments.database, server_settings=SESSION)
    for name in FILES:
        await connection.execute((arguments.sql / name).read_text(encoding="utf-8"))
    await connection.close()
    most = max(arguments.streams)
    pool = await asyncpg.create_pool(arguments.database, min_size=most, max_size=most, server_settings=SESSION)
    figures = await append_load.measure(MessageDb(pool), arguments)
    await pool.close()
    return figures


if __name__ == "__main__":
    say(uvloop.run(main(options(**append_load.OPTIONS, sql=Path))))
