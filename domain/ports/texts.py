"""Content-addressed texts, stored once: instructions and tools' descriptions as models saw them."""

from collections.abc import Collection, Mapping
from typing import Protocol


class TextStore(Protocol):
    """Stores texts by their names; see `domain.prompt.text_refs.name_of`."""

    async def keep(self, texts: Mapping[str, str]) -> None:
        """Store texts by their names, and leave existing ones unchanged. Raises `StoreUnavailable`."""

    async def texts(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the texts that are stored, by name. Raises `StoreUnavailable`."""
