"""Threads' words in the memory of this process, read from the read model `messages` and continued with what is new.

What was said does not change: an edit is a message of its own, and what was rolled back is left out by whoever
recalls. So a thread's words stay right whatever other processes do, and only what was said since is read.
"""

from collections.abc import Sequence

import asyncpg

from domain.ids import ThreadId, slice_of
from domain.lru import Lru
from domain.ports.recall import Lineage
from domain.recall.word_index import Part, WordIndex
from infrastructure.postgres.retry import fetch

KEPT = 32_000_000
"""Bytes that are kept of threads' words, those that were looked at last: some 250 conversations of 200 turns."""

COUNTED = 8_192
"""Versions of a thread that are read. A longer one is searched where its words are."""

OTHER = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
"""What PostgreSQL says where the read model is built for the first time, or where one of another version serves."""

NEWER = """
SELECT said.versions, said.signs, said.who
  FROM unnest((SELECT $1::smallint[]), $2::uuid[], $3::integer[])
       WITH ORDINALITY AS part (slice, thread_id, after, place)
 CROSS JOIN LATERAL (
       SELECT array_agg(message.version) AS versions, array_agg(message.keys) AS signs, array_agg(message.who) AS who
         FROM (SELECT message.version, message.keys, coalesce(message.tool, message.role) AS who
                 FROM read_models.messages AS message
                WHERE message.slice = part.slice AND message.thread_id = part.thread_id
                  AND message.version > part.after AND message.version <= $4
                ORDER BY message.version) AS message
     ) AS said
 ORDER BY part.place
"""
"""The messages after a version, of each of some threads, as lists. An array of the planner's own view would be planned
for anew each time, as that of `READ_AT` would."""


class WordIndexes:
    """The words of the threads that were searched last."""

    def __init__(self, pool: asyncpg.Pool, kept: int = KEPT) -> None:
        """Read with a pool's connections, and keep at most so many bytes."""
        self._pool = pool
        self._threads = Lru[ThreadId, WordIndex](kept)

    async def of(self, lineage: Lineage) -> Sequence[Part]:
        """Return the words of a lineage's threads, at least up to the versions that are of interest.

        The read model grows in the order of versions: where there is a later message, none is missing before it.
        """
        known = [self._threads.get(thread_id) or WordIndex() for thread_id, _ in lineage]
        short = [place for place, (_, upto) in enumerate(lineage) if known[place].last < upto]
        if short:
            for place, words in zip(short, await self._continued(lineage, known, short), strict=True):
                known[place] = words
        for (thread_id, _), words in zip(lineage, known, strict=True):
            self._threads.put(thread_id, words, words.size)
        return [(thread_id, words, upto) for (thread_id, upto), words in zip(lineage, known, strict=True)]

    async def _continued(
        self, lineage: Lineage, known: Sequence[WordIndex], short: Sequence[int]
    ) -> Sequence[WordIndex]:
        """Read what was said since, also what is too new to be of interest yet: it will be."""
        threads = [lineage[place][0] for place in short]
        columns = [slice_of(thread_id) for thread_id in threads], threads, [known[place].last for place in short]
        rows = await fetch(self._pool, NEWER, *columns, COUNTED, expecting=OTHER)
        return [
            known[place].extended(row["versions"] or (), row["signs"] or (), row["who"] or ())
            for place, row in zip(short, rows, strict=True)
        ]
