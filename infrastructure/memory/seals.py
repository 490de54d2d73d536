"""Seals in memory."""

from collections.abc import Sequence

from domain.log.seal import Seal


class MemorySealStore:
    """A `SealStore` that a process keeps for itself."""

    def __init__(self) -> None:
        """Begin with no seal."""
        self._seals: list[Seal] = []

    async def append(self, seal: Seal) -> bool:
        """Keep the next seal."""
        if seal.number != len(self._seals) + 1:
            return False
        self._seals.append(seal)
        return True

    async def last(self) -> Seal | None:
        """Return the last seal."""
        return self._seals[-1] if self._seals else None

    async def get(self, number: int) -> Seal | None:
        """Look a seal up: number n is at index n - 1."""
        return self._seals[number - 1] if 1 <= number <= len(self._seals) else None

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        """List a page of seals."""
        return self._seals[after : after + limit]
