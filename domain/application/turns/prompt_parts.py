"""The static parts of prompts: instructions, tools and values.

Each text is counted once and stored by its hash, so that past prompts can be reconstructed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof

from domain.application.turns.token_counting import count_tokens
from domain.json import JsonObject, storable_text
from domain.lru import Lru
from domain.models.chat import MESSAGE_OVERHEAD
from domain.ports.texts import TextStore
from domain.ports.tokens import TokenCounter
from domain.prompt.application_context import without_markers
from domain.prompt.assemble import HEADING_TOKENS, MARKS_TOKENS, FixedParts, values_text
from domain.prompt.text_refs import text_name
from domain.thread.codec import to_json

MAX_CACHED_TEXTS = 1_000
"""Texts whose token count a process caches, with the knowledge that they are stored."""

MAX_CACHE_BYTES = 16_000_000
"""Bytes that these texts may take: values may be long."""


@dataclass
class PromptParts:
    """Counts and stores instructions, tools and values. A text that is cached is not sent to the store again."""

    tokens: TokenCounter
    store: TextStore
    _cache: Lru[str, tuple[str, int]] = field(default_factory=lambda: Lru(MAX_CACHE_BYTES, MAX_CACHED_TEXTS))

    async def fixed(self, instructions: str, tools: str, values: JsonObject, shown: Sequence[str]) -> FixedParts:
        """Return the beginning of a prompt. `tools` are their specifications as JSON. Raises `StoreUnavailable`."""
        names = tuple(name for name in shown if name in values)
        instructions, known = storable_text(instructions), storable_text(values_text(values, names))
        texts = [await self._stored(text) for text in (instructions, tools, known)]
        if (given := without_markers(known)) != known:  # the prompt shows it without the markers
            texts[-1] = (texts[-1][0], await count_tokens(self.tokens, given))
        tokens = MESSAGE_OVERHEAD + sum(tokens for _, tokens in texts) + (HEADING_TOKENS + MARKS_TOKENS if known else 0)
        return FixedParts(instructions, tokens, tuple(name for name, _ in texts), names, known)

    async def _stored(self, text: str) -> tuple[str, int]:
        """Return a text's name and tokens once it is stored."""
        if not text:
            return "", 0
        if (known := self._cache.get(text)) is not None:
            return known
        name = text_name(text)
        await self.store.keep({name: text})
        known = (name, await count_tokens(self.tokens, text))
        self._cache.put(text, known, getsizeof(text))
        return known


def tools_text(specs: Sequence[object]) -> str:
    """Return tools as the JSON that is sent, counted and stored; "" for none."""
    return to_json([{"type": "function", "function": spec} for spec in specs]) if specs else ""
