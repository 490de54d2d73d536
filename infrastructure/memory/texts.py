"""Texts in memory."""

from collections.abc import Collection, Mapping


class MemoryTextStore:
    """A `TextStore` that ends with its process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    async def keep(self, texts: Mapping[str, str]) -> None:
        self._texts = {**texts, **self._texts}

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        return {name: self._texts[name] for name in names if name in self._texts}
