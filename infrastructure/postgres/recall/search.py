"""Recall by words on PostgreSQL, over the read model `messages`.

The words of most threads are cached in memory; see `WordIndexes`. But a thread may have 30,000 messages, and matching
all of them with each term would be slow. So the number of messages with each term is estimated from samples all over
the thread, and only messages with one of the rarer terms are ranked. Finding those reads the thread once. Messages
older than the newest `MAX_SEARCHED_MESSAGES` are not found.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import asyncpg

from domain.ids import ThreadId, Version
from domain.ports.recall import Lineage
from domain.recall.bm25 import Candidate, Hit, Matches, rank, rarest
from domain.recall.terms import MAX_TERMS, Term, words_in
from domain.recall.word_index import find
from infrastructure.postgres.failures import OTHER_SCHEMA_ERRORS
from infrastructure.postgres.recall.word_indexes import MAX_CACHE_BYTES, MAX_INDEXED_VERSIONS, WordIndexes
from infrastructure.postgres.retry import Store
from infrastructure.postgres.thread_columns import thread_columns
from infrastructure.postgres.tsquery import tsquery

SAMPLES = 32
"""Parts of a thread in which terms are counted."""

MAX_CANDIDATES = 1_000
"""Messages that are ranked, at most."""

MAX_SEARCHED_MESSAGES = 50_000
"""The newest messages of a thread are searched."""

MAX_LINEAGE = 100
"""Threads of a lineage of forks that are searched, the nearest ones."""

# Subqueries, so that PostgreSQL parses a query once and not for each row.
_QUERIES = [f"(SELECT ($1::text[])[{number}]::tsquery)" for number in range(1, MAX_TERMS + 1)]

_PARTS = "unnest($2::smallint[], $3::uuid[], $4::integer[]) AS part (slice, thread_id, upto)"

COUNT = f"""
SELECT count(*) AS messages, coalesce(avg(length(said.content)), 0)::float8 AS length,
       ARRAY[{", ".join(f"count(*) FILTER (WHERE said.content @@ {query})" for query in _QUERIES)}] AS counts
  FROM {_PARTS}
 CROSS JOIN unnest($5::integer[], $6::integer[]) AS stretch (after, upto)
 CROSS JOIN LATERAL (
       SELECT message.content
         FROM read_models.messages AS message
        WHERE message.slice = part.slice AND message.thread_id = part.thread_id
          AND message.version > stretch.after AND message.version <= least(part.upto, stretch.upto)
       OFFSET 0  -- keeps the planner from reading the whole thread and comparing each message with each stretch
     ) AS said
"""  # noqa: S608  (numbers and words of our own)
"""The number of messages in some samples, their mean length, and how many have each term."""

_BITS = [f"coalesce((said.content @@ {query})::integer::bigint << {bit}, 0)" for bit, query in enumerate(_QUERIES)]

MATCHING = f"""
SELECT said.thread_id, said.version, length(said.content) AS length, {" | ".join(_BITS)} AS terms
  FROM {_PARTS}
 CROSS JOIN LATERAL (
       SELECT message.thread_id, message.version, message.content
         FROM read_models.messages AS message
        WHERE message.slice = part.slice AND message.thread_id = part.thread_id AND message.version <= part.upto
        ORDER BY message.version DESC
        LIMIT $5  -- also keeps the planner from reading what the whole database has of a frequent word
     ) AS said
 WHERE said.content @@ (SELECT $6::text::tsquery)
 LIMIT $7
"""  # noqa: S608  (as above)
"""The newest messages that have any of the given terms, each with all its terms as a bit set."""


class PostgresFinder(Store):
    """A `Finder` over the serving instance of the read model."""

    def __init__(self, pool: asyncpg.Pool, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Cache at most `max_bytes` of threads' words. The caller closes the pool."""
        super().__init__(pool)
        self._word_indexes = WordIndexes(pool, max_bytes)

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        """Search the cached words; on the server if the thread is very long."""
        terms = terms[:MAX_TERMS]
        if not terms or before <= 1:
            return []
        lineage = [(thread_id, Version(min(upto, before - 1))) for thread_id, upto in lineage[:MAX_LINEAGE]]
        try:
            if before <= MAX_INDEXED_VERSIONS:
                # Another version of the read model may serve until this code's is built.
                with suppress(asyncpg.UndefinedColumnError):
                    return find(await self._word_indexes.of(lineage), terms, limit)
            return rank(await self._matches_on_server(lineage, terms, before), terms, limit)
        except asyncpg.UndefinedTableError:  # the read model is built for the first time
            return []

    async def _matches_on_server(self, lineage: Lineage, terms: Sequence[Term], before: Version) -> Matches:
        """Match on the server, in a thread of any length."""
        queries = [tsquery([list(map(words_in, term.forms))]) for term in terms]
        parts = thread_columns(lineage)
        starts = [(before - 1) * number // SAMPLES for number in range(SAMPLES + 1)]
        width = MAX_INDEXED_VERSIONS // SAMPLES
        ends = [min(start + width, following) for start, following in pairwise(starts)]
        (counted,) = await self._fetch(COUNT, queries, *parts, starts[:-1], ends, expecting=OTHER_SCHEMA_ERRORS)
        scale = (before - 1) / sum(end - start for start, end in zip(starts, ends, strict=False))
        counts = tuple(count * scale for count in counted["counts"][: len(terms)])
        rare_terms = " | ".join(queries[number] for number in rarest(counts, MAX_CANDIDATES))
        limits = MAX_SEARCHED_MESSAGES, rare_terms, MAX_CANDIDATES
        rows = await self._fetch(MATCHING, queries, *parts, *limits, expecting=OTHER_SCHEMA_ERRORS)
        candidates = [Candidate(ThreadId(row["thread_id"]), *list(row)[1:]) for row in rows]
        return Matches(counted["messages"] * scale, counted["length"], counts, candidates)
