"""Texts that are kept once and named by what they say: instructions and tools' descriptions, as models saw them."""

from collections.abc import Collection, Mapping
from typing import Protocol


class TextStore(Protocol):
    """Keeps texts by their names; see `domain.prompt.text_refs.name_of`."""

    async def keep(self, texts: Mapping[str, str]) -> None:
        """Keep texts by their names. What is there already stays as it is. Raises `StoreUnavailable`."""

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        """Return those that are kept. Raises `StoreUnavailable`."""
