"""Vectors of messages on PostgreSQL, with pgvector.

None of this is in the log or in a migration: an installation without embeddings needs no extension. Distances are
exact: a thread's vectors are stored together, and an index over all threads would find other threads' messages.
"""

from collections.abc import Mapping, Sequence

from domain.ids import Position, Slice, ThreadId, Version
from domain.ports.recall import Embedded, Lineage
from domain.recall.bm25 import Hit
from infrastructure.postgres.pool import connect_as_owner
from infrastructure.postgres.read_models.statements import LOCK
from infrastructure.postgres.requirements import ROLE
from infrastructure.postgres.retry import Store
from infrastructure.postgres.thread_columns import thread_columns

MAX_COMPARED = 50_000
"""The vectors of a thread's newest messages are compared."""

PREPARE_LOCK = 0x7665_6374  # "vect"
"""The advisory lock under which one process at a time creates the tables."""

EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"

TABLES = """
CREATE TABLE IF NOT EXISTS read_models.embeddings (
    thread_id uuid     NOT NULL,
    version   integer  NOT NULL,
    slice     smallint NOT NULL,
    model     text     NOT NULL,
    vector    vector   NOT NULL,
    PRIMARY KEY (model, slice, thread_id, version)
);
CREATE TABLE IF NOT EXISTS read_models.embedded (
    position bigint   NOT NULL,
    slice    smallint NOT NULL,
    model    text     NOT NULL,
    PRIMARY KEY (model, slice)
) WITH (fillfactor = 20)
"""

POSITIONS = "SELECT slice, position FROM read_models.embedded WHERE model = $1"

KEEP = """
WITH kept AS (
    INSERT INTO read_models.embeddings (model, slice, thread_id, version, vector)
    SELECT $1, one.slice, one.thread_id, one.version, one.vector::vector
      FROM unnest($2::smallint[], $3::uuid[], $4::integer[], $5::text[]) AS one (slice, thread_id, version, vector)
        ON CONFLICT DO NOTHING
)
INSERT INTO read_models.embedded AS there (model, slice, position)
SELECT $1, read.slice, read.position FROM unnest($6::smallint[], $7::bigint[]) AS read (slice, position)
    ON CONFLICT (model, slice) DO UPDATE SET position = greatest(there.position, excluded.position)
"""

NEAREST = """
SELECT said.thread_id, said.version, 1 - (said.vector <=> $5::text::vector) AS score
  FROM unnest($2::smallint[], $3::uuid[], $4::integer[]) AS part (slice, thread_id, upto)
 CROSS JOIN LATERAL (
       SELECT embedding.thread_id, embedding.version, embedding.vector
         FROM read_models.embeddings AS embedding
        WHERE embedding.model = $1 AND embedding.slice = part.slice AND embedding.thread_id = part.thread_id
          AND embedding.version <= part.upto
        ORDER BY embedding.version DESC
        LIMIT $6
     ) AS said
 WHERE vector_dims(said.vector) = vector_dims($5::text::vector)
 ORDER BY score DESC, said.version DESC
 LIMIT $7
"""


class PostgresVectorStore(Store):
    """A `VectorStore` on a migrated database. Call `prepare` first."""

    async def prepare(self, url: str) -> None:
        """Create the extension, as the owner of the database, and the tables. Raises asyncpg's errors."""
        connection = await connect_as_owner(url)
        try:
            async with connection.transaction():
                await connection.execute(LOCK, PREPARE_LOCK)
                await connection.execute(EXTENSION)
                await connection.execute(f"SET LOCAL ROLE {ROLE}")
                await connection.execute(TABLES)
        finally:
            await connection.close()

    async def positions(self, model: str) -> Mapping[Slice, Position]:
        return {Slice(row["slice"]): Position(row["position"]) for row in await self._fetch(POSITIONS, model)}

    async def keep(self, model: str, vectors: Sequence[Embedded], read: Mapping[Slice, Position]) -> None:
        columns = thread_columns((one.thread_id, one.version) for one in vectors)
        literals = [_literal(one.vector) for one in vectors]
        slices = sorted(read)  # in one order, so that two writers do not deadlock
        await self._fetch(KEEP, model, *columns, literals, slices, [read[slice_] for slice_ in slices])

    async def nearest(
        self, model: str, lineage: Lineage, vector: Sequence[float], before: Version, limit: int
    ) -> Sequence[Hit]:
        parts = thread_columns((thread_id, min(upto, before - 1)) for thread_id, upto in lineage)
        rows = await self._fetch(NEAREST, model, *parts, _literal(vector), MAX_COMPARED, limit)
        return [Hit(ThreadId(row["thread_id"]), row["version"], row["score"]) for row in rows]


def _literal(vector: Sequence[float]) -> str:
    return f"[{','.join(map(repr, map(float, vector)))}]"
