"""Finding older messages by their words, on PostgreSQL: over the read model `messages`.

Of most threads the words are kept here; see `WordIndexes`. But a thread may have 30,000 messages, and each term would
cost a look at all of them. So it is estimated from stretches all over the thread how many messages have each term, and
only those that have one of the rarer terms are looked at more closely. The whole thread is gone through once, for that;
what is older than `SEARCHED` messages is not found.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import asyncpg

from domain.ids import ThreadId, Version, slice_of
from domain.ports.recall import Lineage
from domain.recall.bm25 import Candidate, Hit, Matches, rank, rarest
from domain.recall.terms import MOST, Term, words_in
from domain.recall.word_index import find
from infrastructure.postgres.read_models.queries import tsquery
from infrastructure.postgres.recall.word_indexes import COUNTED, KEPT, OTHER, WordIndexes
from infrastructure.postgres.retry import fetch

STRETCHES = 32
"""Parts of a thread that terms are counted in."""

CANDIDATES = 1_000
"""Messages that are looked at more closely, at most."""

SEARCHED = 50_000
"""Messages that are searched, the newest ones."""

PARENTS = 100
"""Forks of forks that are searched."""

# Written as subqueries, so that a query is parsed once and not for each row.
_QUERIES = [f"(SELECT ($1::text[])[{number}]::tsquery)" for number in range(1, MOST + 1)]

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
"""How many messages there are in some stretches, how long they are, and how many have each term."""

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
"""The newest messages that have any of the terms that are looked for, with all that they have."""


class PostgresFinder:
    """A `Finder` over the instance of the read model that serves."""

    def __init__(self, pool: asyncpg.Pool, kept: int = KEPT) -> None:
        """Use a pool's connections, and keep so many bytes of threads' words. Whoever opened the pool closes it."""
        self._pool = pool
        self._concordances = WordIndexes(pool, kept)

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        """Look in the words that are kept here; or where these are very many, on the server."""
        terms = terms[:MOST]
        if not terms or before <= 1:
            return []
        lineage = [(thread_id, Version(min(upto, before - 1))) for thread_id, upto in lineage[:PARENTS]]
        try:
            if before <= COUNTED:
                with suppress(asyncpg.UndefinedColumnError):  # another version serves until this code's is built
                    return find(await self._concordances.of(lineage), terms, limit)
            return rank(await self._searched(lineage, terms, before), terms, limit)
        except asyncpg.UndefinedTableError:  # the read model is built for the first time
            return []

    async def _searched(self, lineage: Lineage, terms: Sequence[Term], before: Version) -> Matches:
        """Let the server look for the terms, in a thread of any length."""
        queries = [tsquery([list(map(words_in, term.forms))]) for term in terms]
        parts = (
            [slice_of(thread_id) for thread_id, _ in lineage],
            [thread_id for thread_id, _ in lineage],
            [upto for _, upto in lineage],
        )
        starts = [(before - 1) * number // STRETCHES for number in range(STRETCHES + 1)]
        width = COUNTED // STRETCHES
        ends = [min(start + width, following) for start, following in pairwise(starts)]
        (counted,) = await fetch(self._pool, COUNT, queries, *parts, starts[:-1], ends, expecting=OTHER)
        scale = (before - 1) / sum(end - start for start, end in zip(starts, ends, strict=False))
        counts = tuple(count * scale for count in counted["counts"][: len(terms)])
        looked_for = " | ".join(queries[number] for number in rarest(counts, CANDIDATES))
        rows = await fetch(self._pool, MATCHING, queries, *parts, SEARCHED, looked_for, CANDIDATES, expecting=OTHER)
        candidates = [Candidate(ThreadId(row["thread_id"]), *list(row)[1:]) for row in rows]
        return Matches(counted["messages"] * scale, counted["length"], counts, candidates)
