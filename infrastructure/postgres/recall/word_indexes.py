"""A cache of threads' word indexes, read from the read model `messages` and extended by new messages.

Messages are immutable: an edit is a message of its own, and recall ignores what was rolled back. So a cached index
stays valid whatever other processes do, and only newer messages are read.
"""

from collections.abc import Sequence

import asyncpg

from domain.ids import ThreadId
from domain.lru import Lru
from domain.ports.recall import Lineage
from domain.recall.word_index import Part, WordIndex
from infrastructure.postgres.failures import OTHER_SCHEMA_ERRORS
from infrastructure.postgres.retry import Store
from infrastructure.postgres.thread_columns import thread_columns

MAX_CACHE_BYTES = 32_000_000
"""What the indexes of the threads that were searched last may take: about 250 conversations of 200 turns."""

MAX_INDEXED_VERSIONS = 8_192
"""A thread with more versions is searched on the server."""

NEWER = """
SELECT said.versions, said.term_ids, said.who
  FROM unnest((SELECT $1::smallint[]), $2::uuid[], $3::integer[])
       WITH ORDINALITY AS part (slice, thread_id, after, place)
 CROSS JOIN LATERAL (
       SELECT array_agg(message.version) AS versions, array_agg(message.keys) AS term_ids, array_agg(message.who) AS who
         FROM (SELECT message.version, message.keys, coalesce(message.tool, message.role) AS who
                 FROM read_models.messages AS message
                WHERE message.slice = part.slice AND message.thread_id = part.thread_id
                  AND message.version > part.after AND message.version <= $4
                ORDER BY message.version) AS message
     ) AS said
 ORDER BY part.place
"""
"""The messages after a version, of each of some threads, as arrays. The slices stand in a subquery: with an array that
the planner can see, PostgreSQL would replan the statement each time, as it would that of `READ_AT`."""


class WordIndexes(Store):
    """The word indexes of the threads that were searched last."""

    def __init__(self, pool: asyncpg.Pool, max_bytes: int = MAX_CACHE_BYTES) -> None:
        super().__init__(pool)
        self._threads = Lru[ThreadId, WordIndex](max_bytes)

    async def of(self, lineage: Lineage) -> Sequence[Part]:
        """Return the indexes of a lineage's threads, at least up to the given versions.

        The read model grows in the order of versions: if it has a later message, it has all before.
        """
        known = [self._threads.get(thread_id) or WordIndex() for thread_id, _ in lineage]
        short = [place for place, (_, upto) in enumerate(lineage) if known[place].last < upto]
        if short:
            columns = thread_columns((lineage[place][0], known[place].last) for place in short)
            # Messages after the requested version, too: a later search needs them.
            rows = await self._fetch(NEWER, *columns, MAX_INDEXED_VERSIONS, expecting=OTHER_SCHEMA_ERRORS)
            for place, row in zip(short, rows, strict=True):
                known[place] = known[place].extended(row["versions"] or (), row["term_ids"] or (), row["who"] or ())
        for (thread_id, _), words in zip(lineage, known, strict=True):
            self._threads.put(thread_id, words, words.size)
        return [(thread_id, words, upto) for (thread_id, upto), words in zip(lineage, known, strict=True)]
