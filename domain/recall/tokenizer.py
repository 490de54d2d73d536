"""The tokenizer of recall and of the search for threads: from a text to the keys that it is found by.

A text is folded first: to Unicode's compatibility form, without case, invisible characters and digits of other
alphabets. Then it is cut into words, and each word becomes its stem by the language of the text. In a script without
spaces, each character (in Thai, each cluster) counts as a word, and two in a row are looked for instead of a word. Long
words of languages that compound are also indexed by their parts of four letters: "Termin" is found in "Zahnarzttermin".

Any change here changes what is stored: raise the version of the projection `messages` with it.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import regex

from domain.recall.function_words import ENGLISH
from domain.recall.stemming import LANGUAGE_SAMPLE_WORDS, MAX_WORD_CHARS, language_of, stem

MAX_FOLDED_CHARS = 100_000
"""The part of a text that is read; also a limit after folding, since a compatibility form has up to 18 characters."""

MAX_SYMBOLS = 8
"""At most so many characters in a row may be symbols in a Latin text; more of them are a text."""

MAX_COMBINING_MARKS = 30
"""Marks on one character, as in Unicode's stream-safe format: ordering more takes quadratic time, and PostgreSQL takes
words of at most 2,046 bytes."""

MIN_COMPOUND_LETTERS, PART_LETTERS = 10, 4
"""The length of a word that may be a compound, at least, and of the parts that it is found by."""

COMPOUNDING = frozenset({"german", "dutch", "swedish", "danish", "norwegian", "finnish", "hungarian"})

SPACELESS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
    r"\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}\p{Javanese}\p{Balinese}ー々〆〇"
)
"""Scripts without spaces between words, and Hangul, whose words have endings of many kinds."""

_ASCII_BLANKS = {number: " " for number in range(128) if not chr(number).isalnum()}
_NO_LATIN = re.compile("[^\x00-\u02ff]+")
_LATIN_WORD = re.compile(r"[^\W_]+")
_RUN = regex.compile(
    rf"(?P<run>[[{SPACELESS}]&&\p{{L}}](?:[[{SPACELESS}]&&\p{{L}}]|\p{{M}})*)"
    rf"|(?:(?![[{SPACELESS}]&&\p{{L}}])[\p{{L}}\p{{N}}])(?:(?![[{SPACELESS}]&&\p{{L}}])[\p{{L}}\p{{M}}\p{{N}}])*",
    regex.VERSION1,
)
_CLUSTER = regex.compile(  # what is folded together; regex's own \X takes quadratic time over flags
    r"(?:[\x00-\x7f](?=[\x00-\x7f]|$))+"
    r"|(?:[\u1100-\u115f\ua960-\ua97c]+[\u1160-\u11a7\ud7b0-\ud7c6]*[\u11a8-\u11ff\ud7cb-\ud7fb]*|[\s\S])[\p{M}\p{Cf}\uff9e\uff9f]*"
)
_UNIT = regex.compile(rf"[เ-ไເ-ໄ]?\p{{L}}(?:[\u17d2\u1039]\p{{L}}|\p{{M}}){{0,{MAX_COMBINING_MARKS}}}[ะาๅະາ]?")
_SPACELESS_START = regex.compile(rf"[[{SPACELESS}]&&\p{{L}}]", regex.VERSION1)
_STACK = regex.compile(rf"(\p{{M}}{{{MAX_COMBINING_MARKS}}})\p{{M}}+")
_IGNORED = regex.compile(r"[\p{Cf}\p{Variation_Selector}\u0640]+")
_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_SPELT_OUT = {"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ı": "i", "ى": "ي"}
"""How keyboards without these letters write them. Unicode does not decompose them."""

_LETTER = re.compile(f"[{''.join(_SPELT_OUT)}]")


def composed(text: str) -> str:
    """Return a text in Unicode's compatibility form, without invisible characters, with ASCII digits."""
    if text.isascii():
        return text
    text = _NO_LATIN.sub(_without_signs, text[:MAX_FOLDED_CHARS]).replace("\u00ad", "")
    if _NO_LATIN.search(text):
        text = _STACK.sub(r"\1", _IGNORED.sub("", text))
        text = unicodedata.normalize("NFKC", text)[:MAX_FOLDED_CHARS]
        # a digit that only regex's newer tables know, not Python's, stays
        return str(_DIGIT.sub(lambda found: str(unicodedata.digit(found[0], found[0])), text))
    return unicodedata.normalize("NFKC", text)


def _without_signs(found: re.Match[str]) -> str:
    """Replace a dash, a quotation mark or an emoji by a blank: they are most of what is not ASCII in English texts."""
    return found[0] if len(found[0]) > MAX_SYMBOLS else _blank_or_itself(found[0])


@lru_cache(1_000)
def _blank_or_itself(text: str) -> str:
    kinds = {unicodedata.category(char)[0] for char in unicodedata.normalize("NFKC", text)}
    return " " if kinds <= {"P", "S", "Z"} else text


def folded(text: str) -> str:
    """Return a text without differences that make no other word: character forms, case, invisible characters."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", composed(text).casefold())
    return text if text.isascii() else _LETTER.sub(lambda found: _SPELT_OUT[found[0]], text)


def words_of(text: str) -> Sequence[str]:
    """Return the words of a folded text; a run in a script without spaces is one."""
    if text.isascii():
        return text.translate(_ASCII_BLANKS).split()
    if not _NO_LATIN.search(text):
        return _LATIN_WORD.findall(text)
    return [found[0] for found in _RUN.finditer(text)]


def is_spaceless(word: str) -> bool:
    """Say whether a word is in a script without spaces."""
    return not word.isascii() and _SPACELESS_START.match(word) is not None


def units_of(run: str) -> Sequence[str]:
    """Cut a run in a script without spaces into the units that are indexed, alone and in pairs."""
    return list(_UNIT.findall(run))


def keys_in(words: Iterable[str], language: str | None) -> Iterator[str]:
    """Yield the keys of folded words in a text of a language; English if it is not known."""
    language = language or ENGLISH
    for word in words:
        if is_spaceless(word):
            yield from units_of(word)
        else:
            yield from indexed_by(word[:MAX_WORD_CHARS], language)


@lru_cache(20_000)
def indexed_by(word: str, language: str) -> tuple[str, ...]:
    """Return a word's key, and its parts if it may be a compound; nothing for a function word."""
    key = stem(word, language)
    if not key:
        return ()
    is_compound = language in COMPOUNDING and len(key) >= MIN_COMPOUND_LETTERS and key.isalpha()
    return (key, *parts_of(key)) if is_compound else (key,)


def located(text: str) -> Sequence[tuple[str, int, int]]:
    """Return a text's keys, each with the begin and the end of its word in the unfolded text."""
    pieces: list[str] = []
    starts: list[int] = []
    for found in _CLUSTER.finditer(text, 0, MAX_FOLDED_CHARS):
        piece = folded(found[0])
        if len(starts) >= MAX_FOLDED_CHARS:
            break
        pieces.append(piece)
        starts += range(found.start(), found.end()) if len(piece) == len(found[0]) else [found.start()] * len(piece)
    starts.append(starts[-1] + 1 if len(starts) >= MAX_FOLDED_CHARS else len(text))
    return [
        (key, starts[start], max(starts[end], starts[end - 1] + 1))
        for key, start, end in _keys_between("".join(pieces))
    ]


def _keys_between(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of a folded text, each with the begin and end of its word."""
    found = list(_RUN.finditer(text))
    language = language_of([word[0] for word in found[:LANGUAGE_SAMPLE_WORDS]]) or ENGLISH
    for word in found:
        if is_spaceless(word[0]):
            for unit in _UNIT.finditer(text, word.start(), word.end()):
                yield unit[0], unit.start(), unit.end()
        else:
            for key in indexed_by(word[0][:MAX_WORD_CHARS], language):
                yield key, word.start(), word.end()


def parts_of(word: str) -> Sequence[str]:
    """Return all substrings of four letters."""
    return [word[at : at + PART_LETTERS] for at in range(len(word) - PART_LETTERS + 1)]
