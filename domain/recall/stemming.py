"""What a word's forms have in common, by the language of its text.

Snowball's stemmers do it, but for English and Arabic. English words are cut less, which finds more in recorded
conversations. Snowball's Arabic stemmer gives a word another stem with its article than without.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat

import regex
from Stemmer import Stemmer

from domain.recall.function_words import ENGLISH, FUNCTION_WORDS

LONGEST = 100
"""Characters of a word that are looked at."""

READ_FOR_LANGUAGE = 200
"""Words of a text by which its language is told."""

FUNCTION_WORDS_ONE_IN = 8
"""Of so many different words in a text, at least one is a function word; where less are, it is data or a list."""

_BY_SCRIPT = {
    "CYRILLIC": "russian",
    "ARABIC": "arabic",
    "GREEK": "greek",
    "DEVANAGARI": "hindi",
    "TAMIL": "tamil",
    "ARMENIAN": "armenian",
}
"""How words of other alphabets are stemmed: that of a script's most frequent language does for others, more or less."""

LATIN = tuple(language for language in FUNCTION_WORDS if language not in {*_BY_SCRIPT.values(), ENGLISH})
"""The languages that are told apart by their function words, beside English."""

_LANES = {
    word: sum(1 << 16 * lane for lane, language in enumerate((ENGLISH, *LATIN)) if word in FUNCTION_WORDS[language])
    for language in (ENGLISH, *LATIN)
    for word in FUNCTION_WORDS[language]
}
"""Words that tell languages, each with a 1 in the 16 bits of each language that has it: a sum counts all at once."""

_STEMMERS = {language: Stemmer(language, 0) for language in {*LATIN, *_BY_SCRIPT.values()} - {"arabic"}}

_ARABIC_PREFIX = regex.compile(r"^(?:[وف]?(?:ال|بال|كال|لل)(?=\w{2})|و(?=\w{3}))")
_ARABIC_SUFFIX = regex.compile(
    r"(?<=\w{3})(?:تها|تهم|تنا|تي|ته|تك)$|(?<=\w{2})(?:ها|هم|هن|نا|كم|ان|ات|ون|ين|ية|يه|ه|ة|ي|ت)$"
)
_FLEETING_VOWEL = regex.compile("(?<=\\w{2})[еёо]([кц])$")  # as in отец and отца, кошек and кошка
_SUFFIX = regex.compile(r"(?:ations?|ings?|ions?|ies|ied|ers?|ed|es|e|s|y)$")


def language_of(words: Sequence[str]) -> str | None:
    """Tell a text's language by its function words: that which has most of them, English first.

    None if there are too few of them, as in data. Of other alphabets nothing need be told: their script tells it.
    """
    different = set(words[:READ_FOR_LANGUAGE])
    counts = sum(map(_LANES.get, different, repeat(0)))
    best, most = ENGLISH, counts & 0xFFFF
    if counts >> 16:
        for language in LATIN:
            counts >>= 16
            if counts & 0xFFFF > most:
                best, most = language, counts & 0xFFFF
    return best if most and most * FUNCTION_WORDS_ONE_IN >= len(different) else None


@lru_cache(20_000)
def stem(word: str, language: str = ENGLISH) -> str:
    """Return what a folded word's forms have in common, more or less; nothing if the word says nothing.

    Codes and short words stay as they are. English words are cut less than Snowball does it, which finds more.
    """
    word = word[:LONGEST]
    if not word.isascii():
        word = _without_accents(word)  # that are characters of their own, such as marks of stress
        language = _BY_SCRIPT.get(unicodedata.name(word[:1] or " ", "").split(" ", 1)[0], language)
    if word in FUNCTION_WORDS.get(language, ()):
        return ""
    if language != ENGLISH and not any(map(str.isdecimal, word)):
        return _arabic(_bare(word)) if language == "arabic" else _bare(_stemmed(word, language))
    word = _bare(word)
    if len(word) <= 3 or not word.isalpha():  # noqa: PLR2004  (such as "bus")
        return word
    stemmed = _SUFFIX.sub("", word)
    return stemmed if len(stemmed) > 2 else word  # noqa: PLR2004


def _stemmed(word: str, language: str) -> str:
    """Stem until nothing changes: once, Snowball leaves some plurals as their singulars are before they are stemmed."""
    stem_word = _STEMMERS[language].stemWord
    while len(shorter := stem_word(word)) > 2 and shorter != word:  # noqa: PLR2004
        word = shorter
    return str(_FLEETING_VOWEL.sub(r"\1", word)) if language == "russian" else word


def _arabic(word: str) -> str:
    """Take the article, "and" and endings off a word, as the stemmer "light10" does."""
    return str(_ARABIC_SUFFIX.sub("", _ARABIC_PREFIX.sub("", word)))


def _bare(word: str) -> str:
    """Take accents and vowel points off a word. Vowels that are letters of their own, as in Hindi, stay."""
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _without_accents(unicodedata.normalize("NFD", word)))


def _without_accents(word: str) -> str:
    return "".join([char for char in word if not _is_accent(unicodedata.combining(char))])


def _is_accent(combining: int) -> bool:
    return 10 <= combining <= 35 or combining >= 200  # noqa: PLR2004  (Unicode's classes of points and accents)
