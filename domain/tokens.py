"""From a text to what it is found by: the one tokenizer of recall and of the search for threads.

A text is folded first: to Unicode's compatibility form, without case, invisible characters and other alphabets' digits.
Then it is cut into words, and each word becomes its stem by the language of the text. Where a script has no spaces,
each character (in Thai, each cluster) counts as a word, and two in a row are looked for instead of a word. Long words of
languages that compound are indexed by their parts of four letters, too: so "Termin" is found in "Zahnarzttermin".

Whatever changes here changes what is stored: raise the version of the projection `messages` with it.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat

import regex
from Stemmer import Stemmer

from domain.function_words import ENGLISH, FUNCTION_WORDS

LONGEST = 100
"""Characters of a word that are looked at."""

MAX_FOLDED = 100_000
"""Characters of a text that are looked at: a character's compatibility form has up to 18."""

STACKED = 30
"""Combining marks on one character, at most, as in Unicode's stream-safe format: to order more takes square time."""

READ_FOR_LANGUAGE = 200
"""Words of a text by which its language is told."""

FUNCTION_WORDS_ONE_IN = 8
"""Of so many different words in a text, at least one is a function word; where less are, it is data or a list."""

LONG_WORD, PART = 10, 4
"""Letters from which on a word may be a compound, and of the parts that it is found by."""

COMPOUNDING = frozenset({"german", "dutch", "swedish", "danish", "norwegian", "finnish", "hungarian"})

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

_STEMMERS = {language: Stemmer(language, 0) for language in {*LATIN, *_BY_SCRIPT.values()}}

SPACELESS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}\p{Javanese}\p{Balinese}ー々〆〇"
)
"""Scripts whose words are not told apart by spaces, and Hangul, whose words carry what other languages say in others."""

_ASCII_BLANKS = {number: " " for number in range(128) if not chr(number).isalnum()}
_RUN = regex.compile(
    rf"(?P<run>[[{SPACELESS}]&&\p{{L}}](?:[[{SPACELESS}]&&\p{{L}}]|\p{{M}})*)"
    rf"|(?:(?![[{SPACELESS}]&&\p{{L}}])[\p{{L}}\p{{N}}])(?:(?![[{SPACELESS}]&&\p{{L}}])[\p{{L}}\p{{M}}\p{{N}}])*",
    regex.VERSION1,
)
_CLUSTER = regex.compile(r"(?:[\x00-\x7f](?=[\x00-\x7f]|$))+|\X")
_UNIT = regex.compile(r"[เ-ไເ-ໄ]?\p{L}(?:[\u17d2\u1039]\p{L}|\p{M})*[ะาๅະາ]?")
_SPACELESS_START = regex.compile(rf"[[{SPACELESS}]&&\p{{L}}]", regex.VERSION1)
_STACK = regex.compile(rf"(\p{{M}}{{{STACKED}}})\p{{M}}+")
_IGNORED = regex.compile(r"[\p{Cf}\p{Variation_Selector}\u0640]+")
_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_SUFFIX = regex.compile(r"(?:ations?|ings?|ions?|ies|ied|ers?|ed|es|e|s|y)$")


def composed(text: str) -> str:
    """Return a text in Unicode's compatibility form, without invisible characters and other alphabets' digits."""
    if text.isascii():
        return text
    text = _STACK.sub(r"\1", _IGNORED.sub("", text[:MAX_FOLDED]))
    return _DIGIT.sub(_ascii_digit, unicodedata.normalize("NFKC", text)[:MAX_FOLDED])


def folded(text: str) -> str:
    """Return a text without what makes no other word: forms of characters, case, what is invisible."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", composed(text).casefold()).replace("ı", "i")


def _ascii_digit(found: "regex.Match[str]") -> str:
    return str(unicodedata.digit(found[0]))


def words_of(text: str) -> Sequence[str]:
    """Return the words of a folded text; a run in a script without spaces is one."""
    if text.isascii():
        return text.translate(_ASCII_BLANKS).split()
    return [found[0] for found in _RUN.finditer(text)]


def language_of(words: Sequence[str]) -> str | None:
    """Tell a text's language by its function words: that which has most of them, English first.

    None if there are too few of them, as in data. Of other alphabets nothing need be told: their script tells it.
    """
    different = set(words[:READ_FOR_LANGUAGE])
    counts = sum(map(_LANES.get, different, repeat(0)))  # type: ignore[arg-type]
    best, most = ENGLISH, counts & 0xFFFF
    if counts >> 16:
        for language in LATIN:
            counts >>= 16
            if counts & 0xFFFF > most:
                best, most = language, counts & 0xFFFF
    return best if most and most * FUNCTION_WORDS_ONE_IN >= len(different) else None


def is_spaceless(word: str) -> bool:
    """Say whether a word is in a script without spaces."""
    return not word.isascii() and _SPACELESS_START.match(word) is not None


def units_of(run: str) -> Sequence[str]:
    """Cut a run in a script without spaces into what is indexed alone and in pairs."""
    units: list[str] = _UNIT.findall(run)
    return units


def keys_of(text: str) -> Sequence[str]:
    """Return what the words of a text are found by, in their order; what says nothing is left out."""
    words = words_of(folded(text))
    return list(keys_in(words, language_of(words)))


def keys_in(words: Iterable[str], language: str | None) -> Iterator[str]:
    """Yield what folded words are found by, in a text of a language; English where it is not known."""
    language = language or ENGLISH
    for word in words:
        if is_spaceless(word):
            yield from units_of(word)
        else:
            yield from indexed_by(word, language)


@lru_cache(20_000)
def indexed_by(word: str, language: str) -> tuple[str, ...]:
    """Return a word's key, and its parts if it may be a compound; nothing if it says nothing."""
    key = stem(word, language)
    if not key:
        return ()
    return (key, *parts_of(key)) if language in COMPOUNDING and len(key) >= LONG_WORD else (key,)


def located(text: str) -> tuple[Sequence[str], Sequence[tuple[int, int]]]:
    """Return a text's keys, and for each where its word begins and ends in the text as it stands."""
    pieces: list[str] = []
    starts: list[int] = []
    for found in _CLUSTER.finditer(text, 0, MAX_FOLDED):
        piece = folded(found[0])
        pieces.append(piece)
        starts += range(found.start(), found.end()) if len(piece) == len(found[0]) else [found.start()] * len(piece)
    starts.append(len(text))
    keys: list[str] = []
    spans: list[tuple[int, int]] = []
    for key, start, end in _keys_between("".join(pieces)):
        keys.append(key)
        spans.append((starts[start], max(starts[end], starts[end - 1] + 1)))
    return keys, spans


def _keys_between(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of a folded text, each with where its word begins and ends."""
    found = list(_RUN.finditer(text))
    language = language_of([word[0] for word in found[:READ_FOR_LANGUAGE]]) or ENGLISH
    for word in found:
        if is_spaceless(word[0]):
            for unit in _UNIT.finditer(text, word.start(), word.end()):
                yield unit[0], unit.start(), unit.end()
        else:
            for key in indexed_by(word[0], language):
                yield key, word.start(), word.end()


def parts_of(word: str) -> Sequence[str]:
    """Return all stretches of four letters in a word."""
    return [word[at : at + PART] for at in range(len(word) - PART + 1)]


@lru_cache(20_000)
def stem(word: str, language: str = ENGLISH) -> str:
    """Return what a folded word's forms have in common, more or less; nothing if the word says nothing.

    Codes and short words stay as they are. English words are cut less than Snowball does it, which finds more.
    """
    word = word[:LONGEST]
    if not word.isascii():
        language = _BY_SCRIPT.get(unicodedata.name(word[0], "").split(" ", 1)[0], language)
    if word in FUNCTION_WORDS.get(language, ()):
        return ""
    if language != ENGLISH and not any(map(str.isdecimal, word)):
        stemmed = _STEMMERS[language].stemWord(word)
        return _bare(stemmed) or word
    word = _bare(word)
    if len(word) <= 3 or not word.isalpha():  # noqa: PLR2004  (such as "bus")
        return word
    stemmed = _SUFFIX.sub("", word)
    return stemmed if len(stemmed) > 2 else word  # noqa: PLR2004


def _bare(word: str) -> str:
    """Take accents and vowel points off a word. Vowels that are letters of their own, as in Hindi, stay."""
    if word.isascii():
        return word
    letters = [c for c in unicodedata.normalize("NFD", word) if not _is_accent(unicodedata.combining(c))]
    return unicodedata.normalize("NFC", "".join(letters))


def _is_accent(combining: int) -> bool:
    return 10 <= combining <= 35 or combining >= 200  # noqa: PLR2004  (Unicode's classes of points and accents)
