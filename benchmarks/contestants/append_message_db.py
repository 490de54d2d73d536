"""Appends with message-db's function `write_message`, a call for each event; the calls of a batch are one transaction.

    python -m benchmarks.contestants.append_message_db --database URL --sql DIRECTORY

DIRECTORY is `database` of a checkout of github.com/message-db/message-db. Streams are of one category, whose lock each
transaction holds until its commit: that is how message-db orders events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import uvloop

from benchmarks import append_load
from domain.chain import Draft
from infrastructure.postgres.pool import dsn_of

FILES = (  # without the extension: what it was needed for, PostgreSQL 13 and later have
    *("schema/message-store.sql", "tables/messages.sql", "types/message.sql"),
    *("functions/hash-64.sql", "functions/acquire-lock.sql", "functions/category.sql", "functions/is-category.sql"),
    *("functions/id.sql", "functions/cardinal-id.sql", "functions/stream-version.sql", "functions/write-message.sql"),
    *("indexes/messages-id.sql", "indexes/messages-stream.sql", "indexes/messages-category.sql"),
)

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


async def main(what: append_load.Asked, sql: Path) -> None:
    connection = await asyncpg.connect(dsn_of(what.database), server_settings={"search_path": "message_store,public"})
    for name in FILES:
        await connection.execute((sql / name).read_text(encoding="utf-8"))
    await connection.close()
    pool = await asyncpg.create_pool(
        dsn_of(what.database),
        min_size=max(what.streams),
        max_size=max(what.streams),
        server_settings={"search_path": "message_store,public"},
    )
    append_load.tell(await append_load.measure(MessageDb(pool), what))
    await pool.close()


if __name__ == "__main__":
    parser = append_load.parser(__doc__)
    parser.add_argument("--sql", type=Path, required=True)
    given = parser.parse_args()
    uvloop.run(main(append_load.asked(given), given.sql))
