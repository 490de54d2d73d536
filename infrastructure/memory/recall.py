"""Finding older messages in memory: by words over the read model `messages`, and by vectors."""

import math
from collections.abc import Iterator, Mapping, Sequence

from domain.ids import Position, Slice, ThreadId, Version
from domain.ports.recall import Embedded, Lineage
from domain.queries import Where
from domain.relevance import Candidate, Hit, Matches, Term, places, rank, vocabulary
from domain.tables import Table
from infrastructure.memory.read_models import MemoryReadModels


class MemoryFinder:
    """A `Finder` that goes through all messages of a thread."""

    def __init__(self, models: MemoryReadModels, messages: Table) -> None:
        """Look in the read models' table of messages."""
        self._models = models
        self._messages = messages

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        """Look at each message."""
        candidates = list(self._candidates(lineage, terms, before))
        if not candidates:
            return []
        counts = tuple(float(sum(c.terms >> number & 1 for c in candidates)) for number in range(len(terms)))
        length = sum(candidate.length for candidate in candidates) / len(candidates)
        matching = [candidate for candidate in candidates if candidate.terms]
        return rank(Matches(len(candidates), length, counts, matching), terms, limit)

    def _candidates(self, lineage: Lineage, terms: Sequence[Term], before: Version) -> Iterator[Candidate]:
        version_at, content_at = map(self._messages.names.index, ("version", "content"))
        for thread_id, upto in lineage:
            last = min(upto, before - 1)
            where = (Where("thread_id", "=", thread_id), Where("version", "<=", last))
            for row in self._models.searched(self._messages, where):
                text = row[content_at] or ""
                found = {number for _, _, number in places(text, terms)}
                bits = sum(1 << number for number in found)
                yield Candidate(thread_id, row[version_at], len(vocabulary(text)), bits)


class MemoryVectorStore:
    """A `VectorStore` that a process keeps for itself."""

    def __init__(self) -> None:
        """Begin without vectors."""
        self._vectors: dict[str, dict[ThreadId, dict[Version, Sequence[float]]]] = {}
        self._read: dict[str, dict[Slice, Position]] = {}

    async def positions(self, model: str) -> Mapping[Slice, Position]:
        """Say how far slices were read."""
        return dict(self._read.get(model, {}))

    async def keep(self, model: str, vectors: Sequence[Embedded], read: Mapping[Slice, Position]) -> None:
        """Keep vectors and positions."""
        there = self._vectors.setdefault(model, {})
        for one in vectors:
            there.setdefault(one.thread_id, {})[one.version] = one.vector
        positions = self._read.setdefault(model, {})
        for slice_, position in read.items():
            positions[slice_] = max(position, positions.get(slice_, Position(0)))

    async def nearest(
        self, model: str, lineage: Lineage, vector: Sequence[float], before: Version, limit: int
    ) -> Sequence[Hit]:
        """Compare with each vector."""
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
