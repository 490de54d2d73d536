"""Looking for older messages of one thread: by words, and by meaning where embeddings are configured.

Read models lag behind the log by some 100 ms. That does not matter here: what has left the live window is older.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from domain.ids import Position, Slice, ThreadId, Version
from domain.recall.bm25 import Hit
from domain.recall.terms import Term

Lineage: TypeAlias = Sequence[tuple[ThreadId, Version]]
"""A thread, and those that it is a fork of: each with the last version that is its own, or of interest."""


class Finder(Protocol):
    """Finds messages by their words."""

    async def find(self, lineage: Lineage, terms: Sequence[Term], before: Version, limit: int) -> Sequence[Hit]:
        """Return the messages before a version that match best, as `domain.recall.bm25.rank` says.

        Raises `StoreUnavailable`.
        """


class Embedder(Protocol):
    """Turns texts into vectors that are near each other where the texts mean the same."""

    @property
    def model(self) -> str:
        """Name the model: vectors of different ones cannot be compared."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Return a vector for each text. Raises a `ModelError`."""

    async def close(self) -> None:
        """Let connections go."""


class Embedded(Struct, frozen=True):
    """A message's vector."""

    thread_id: ThreadId
    version: Version
    vector: Sequence[float]


class VectorStore(Protocol):
    """Keeps vectors, and how far the log was read for each model. Losing them costs time only."""

    async def positions(self, model: str) -> Mapping[Slice, Position]:
        """Return how far slices were read. Raises `StoreUnavailable`."""

    async def keep(self, model: str, vectors: Sequence[Embedded], read: Mapping[Slice, Position]) -> None:
        """Keep vectors, and how far slices are read with them. Again, it changes nothing. Raises `StoreUnavailable`."""

    async def nearest(
        self, model: str, lineage: Lineage, vector: Sequence[float], before: Version, limit: int
    ) -> Sequence[Hit]:
        """Return the messages before a version whose vectors are nearest, by cosine. Raises `StoreUnavailable`."""
