"""Recall in memory: by words over the read model `messages`, and by vectors."""

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter

from domain.ids import Position, Slice, ThreadId, Version
from domain.ports.recall import Embedded, Lineage
from domain.read_models.queries import Where
from domain.read_models.tables import Table
from domain.recall.bm25 import Hit
from domain.recall.terms import Term
from domain.recall.word_index import Part, WordIndex, find
from infrastructure.memory.read_models import MemoryReadModels


class MemoryFinder:
    """A `Finder` that reads all messages of a thread."""

    def __init__(self, models: MemoryReadModels, messages: Table) -> None:
        self._models = models
        self._messages = messages
        self._columns = itemgetter(*map(messages.names.index, ("version", "keys", "tool", "role")))

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        parts = [self._part(thread_id, Version(min(upto, before - 1))) for thread_id, upto in lineage]
        return find(parts, terms, limit)

    def _part(self, thread_id: ThreadId, upto: Version) -> Part:
        where = (Where("thread_id", "=", thread_id), Where("version", "<=", upto))
        rows = sorted(map(self._columns, self._models.searched(self._messages, where)), key=itemgetter(0))
        versions, term_ids, who = [row[0] for row in rows], [row[1] for row in rows], [row[2] or row[3] for row in rows]
        return thread_id, WordIndex().extended(versions, term_ids, who), upto


class MemoryVectorStore:
    """A `VectorStore` of one process."""

    def __init__(self) -> None:
        self._vectors: dict[str, dict[ThreadId, dict[Version, Sequence[float]]]] = {}
        self._read: dict[str, dict[Slice, Position]] = {}

    async def positions(self, model: str) -> Mapping[Slice, Position]:
        return dict(self._read.get(model, {}))

    async def keep(self, model: str, vectors: Sequence[Embedded], read: Mapping[Slice, Position]) -> None:
        threads = self._vectors.setdefault(model, {})
        for one in vectors:
            threads.setdefault(one.thread_id, {})[one.version] = one.vector
        positions = self._read.setdefault(model, {})
        for slice_, position in read.items():
            positions[slice_] = max(position, positions.get(slice_, Position(0)))

    async def nearest(
        self, model: str, lineage: Lineage, vector: Sequence[float], before: Version, limit: int
    ) -> Sequence[Hit]:
        hits = [
            Hit(thread_id, version, _cosine(vector, other))
            for thread_id, upto in lineage
            for version, other in self._vectors.get(model, {}).get(thread_id, {}).items()
            if version <= upto and version < before and len(other) == len(vector)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, -hit.version))[:limit]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    size = math.hypot(*one) * math.hypot(*other)
    return product / size if size else 0.0
