"""Seals in memory."""

from collections.abc import Sequence

from domain.log.seal import Seal


class MemorySealStore:
    """A `SealStore` in the memory of a process."""

    def __init__(self) -> None:
        self._seals: list[Seal] = []

    async def append(self, seal: Seal) -> bool:
        if seal.number != len(self._seals) + 1:
            return False
        self._seals.append(seal)
        return True

    async def last(self) -> Seal | None:
        return self._seals[-1] if self._seals else None

    async def get(self, number: int) -> Seal | None:
        return self._seals[number - 1] if 1 <= number <= len(self._seals) else None

    async def page(self, after: int, limit: int) -> Sequence[Seal]:
        return self._seals[after : after + limit]
