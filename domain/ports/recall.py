"""Search for older messages of one thread: by words and, if embeddings are configured, by meaning.

Read models lag behind the log by some 100 ms. That does not matter, because the search is for messages that have left
the live window.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Position, Slice, ThreadId, Version
from domain.recall.bm25 import Hit
from domain.recall.terms import Term

Lineage: TypeAlias = Sequence[tuple[ThreadId, Version]]
"""A thread and its ancestors by forks, each with the last version to search."""


class Finder(Protocol):
    """Finds messages by words."""

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        """Return the messages before a version that match best, ranked like `domain.recall.bm25.rank`.

        Raises `StoreUnavailable`.
        """


class Embedder(Protocol):
    """Converts texts to vectors. Texts of similar meaning have vectors that are near each other."""

    @property
    def model(self) -> str:
        """The model's name. Vectors of different models cannot be compared."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return a vector for each text. Raises a `ModelError`."""

    async def close(self) -> None:
        """Close the connections."""


class Embedded(Struct, frozen=True):
    """A message's vector."""

    thread_id: ThreadId
    version: Version
    vector: Sequence[float]


class VectorStore(Protocol):
    """Stores vectors, and for each model how far the log was read. They can be computed again."""

    async def positions(self, model: str) -> Mapping[Slice, Position]:
        """Return the last read position of each slice. Raises `StoreUnavailable`."""

    async def keep(self, model: str, vectors: Sequence[Embedded], read: Mapping[Slice, Position]) -> None:
        """Store vectors and the positions read with them. Idempotent. Raises `StoreUnavailable`."""

    async def nearest(
        self, model: str, lineage: Lineage, vector: Sequence[float], before: Version, limit: int
    ) -> Sequence[Hit]:
        """Return the messages before a version whose vectors are nearest, by cosine. Raises `StoreUnavailable`."""
