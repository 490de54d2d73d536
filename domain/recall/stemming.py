"""Stemming: what the forms of a word have in common, by the language of its text.

Snowball's stemmers do it, except for English and Arabic. English words are cut less, which finds more in recorded
conversations. Snowball's Arabic stemmer gives a word with its article another stem than without.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat

import regex
from Stemmer import Stemmer

from domain.recall.function_words import ENGLISH, FUNCTION_WORDS

MAX_WORD_CHARS = 100
"""The part of a word that counts."""

LANGUAGE_SAMPLE_WORDS = 200
"""Words of a text by which its language is detected."""

WORDS_PER_FUNCTION_WORD = 8
"""At least one in so many different words of a text is a function word. With fewer, it is data or a list."""

_BY_SCRIPT = {
    "CYRILLIC": "russian",
    "ARABIC": "arabic",
    "GREEK": "greek",
    "DEVANAGARI": "hindi",
    "TAMIL": "tamil",
    "ARMENIAN": "armenian",
}
"""The stemmer of each other script: that of its most frequent language, which roughly works for others."""

LATIN = tuple(language for language in FUNCTION_WORDS if language not in {*_BY_SCRIPT.values(), ENGLISH})
"""The languages other than English that are detected by their function words."""

_LANGUAGE_COUNTERS = {
    word: sum(1 << 16 * lane for lane, language in enumerate((ENGLISH, *LATIN)) if word in FUNCTION_WORDS[language])
    for language in (ENGLISH, *LATIN)
    for word in FUNCTION_WORDS[language]
}
"""Function words, each with a 1 in the 16 bits of each language that has it: one sum counts all languages at once."""

_STEMMERS = {language: Stemmer(language, 0) for language in {*LATIN, *_BY_SCRIPT.values()} - {"arabic"}}

_ARABIC_PREFIX = regex.compile(r"^(?:[وف]?(?:ال|بال|كال|لل)(?=\w{2})|و(?=\w{3}))")
_ARABIC_SUFFIX = regex.compile(
    r"(?<=\w{3})(?:تها|تهم|تنا|تي|ته|تك)$|(?<=\w{2})(?:ها|هم|هن|نا|كم|ان|ات|ون|ين|ية|يه|ه|ة|ي|ت)$"
)
_FLEETING_VOWEL = regex.compile("(?<=\\w{2})[еёо]([кц])$")  # as in отец and отца, кошек and кошка
_SUFFIX = regex.compile(r"(?:ations?|ings?|ions?|ies|ied|ers?|ed|es|e|s|y)$")


def language_of(words: Sequence[str]) -> str | None:
    """Detect a text's language: the one with the most function words, English first.

    None if there are too few, as in data. Other alphabets need no detection: their script identifies the stemmer.
    """
    different = set(words[:LANGUAGE_SAMPLE_WORDS])
    counts = sum(map(_LANGUAGE_COUNTERS.get, different, repeat(0)))
    best, most = ENGLISH, counts & 0xFFFF
    if counts >> 16:
        for language in LATIN:
            counts >>= 16
            if counts & 0xFFFF > most:
                best, most = language, counts & 0xFFFF
    return best if most and most * WORDS_PER_FUNCTION_WORD >= len(different) else None


@lru_cache(20_000)
def stem(word: str, language: str = ENGLISH) -> str:
    """Return the stem of a folded word; "" for a function word. Codes and short words stay as they are."""
    word = word[:MAX_WORD_CHARS]
    if not word.isascii():
        word = _without_accents(word)  # accents that are characters of their own, such as stress marks
        language = _BY_SCRIPT.get(unicodedata.name(word[:1] or " ", "").split(" ", 1)[0], language)
    if word in FUNCTION_WORDS.get(language, ()):
        return ""
    if language != ENGLISH and not any(map(str.isdecimal, word)):
        if language == "arabic":  # without the article, "and" and endings, as the stemmer "light10" does
            return str(_ARABIC_SUFFIX.sub("", _ARABIC_PREFIX.sub("", _bare(word))))
        return _bare(_stemmed(word, language))
    word = _bare(word)
    if len(word) <= 3 or not word.isalpha():  # noqa: PLR2004  (such as "bus")
        return word
    stemmed = _SUFFIX.sub("", word)
    return stemmed if len(stemmed) > 2 else word  # noqa: PLR2004


def _stemmed(word: str, language: str) -> str:
    """Stem until nothing changes: one pass leaves some plurals as their unstemmed singulars."""
    stem_word = _STEMMERS[language].stemWord
    while len(shorter := stem_word(word)) > 2 and shorter != word:  # noqa: PLR2004
        word = shorter
    return str(_FLEETING_VOWEL.sub(r"\1", word)) if language == "russian" else word


def _bare(word: str) -> str:
    """Remove accents and vowel points. Vowels that are letters of their own, as in Hindi, stay."""
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _without_accents(unicodedata.normalize("NFD", word)))


def _without_accents(word: str) -> str:
    # by Unicode's combining classes of points and accents
    return "".join(
        [char for char in word if not (10 <= (kind := unicodedata.combining(char)) <= 35 or kind >= 200)]  # noqa: PLR2004
    )
