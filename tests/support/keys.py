"""The keys that the words of a text are found by."""

from collections.abc import Sequence

from domain.recall.stemming import language_of
from domain.recall.tokenizer import folded, keys_in, words_of


def keys_of(text: str) -> Sequence[str]:
    """Return the keys of a text's words, in their order, without function words."""
    words = words_of(folded(text))
    return list(keys_in(words, language_of(words)))
