"""What a question looks for: codes, dates and amounts as they stand, names as a whole, and words that say something.

Each is looked for by the keys that `domain.recall.tokenizer` gives the words of messages. A search for threads is made
of the same words, without weights.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, combinations, islice, pairwise

import regex
from msgspec import Struct

from domain.recall.function_words import ENGLISH, FUNCTION_WORDS, KOREAN, PARTICLES
from domain.recall.stemming import LATIN, LONGEST, language_of, stem
from domain.recall.tokenizer import (
    COMPOUNDING,
    LONG_WORD,
    PART,
    SPACELESS,
    composed,
    folded,
    is_spaceless,
    keys_in,
    located,
    parts_of,
    units_of,
    words_of,
)

TERMS = 20
"""Words of a question, at most: a pasted page asks for its first ones."""

MOST = 40
"""Terms of a question, at most: a pair of characters counts as half a word."""

QUESTION = 10_000
"""Characters of a question that are looked at."""

READ = 4_000
"""Characters of a text whose language is told to look for places in it."""

FEWEST_GROUPS, MOST_GROUPS = 3, 8
"""Words of a search from which on some may lack, and how many are looked for then."""

QUESTION_MARKS = ("?", "\uff1f", "\u061f")

IN_A_ROW = 8
"""Words of a code or a name, at most: what is longer is a text, looked for word by word."""

CODE, PAIR, CHARACTER, KANA, PIECE = 1.5, 1.0, 0.3, 0.4, 0.6
"""What terms weigh beside a word: a code, two characters in a row, one that is part of more, syllables of kana, which
are mostly grammar, and any part of a compound."""

LEAST_PIECE = 5
"""Letters of a part of a compound that is looked for as a word."""

Row = tuple[str, ...]
"""Keys that follow on each other in a text."""

Search = tuple[tuple[Row, ...], ...]
"""What messages of threads are searched for: all groups, any row of a group, all words of a row, in any order."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

_MONTH = {name[:length].lower(): number for number, name in enumerate(MONTHS, 1) for length in {3, len(name)}}
_NAMES = "|".join(sorted(_MONTH, key=len, reverse=True))
_DATE = re.compile(
    rf"\b(?P<month>{_NAMES})\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b"
    rf"|\b(?P<day_first>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<its_month>{_NAMES})\b"
    r"|\b\d{4}-(?P<iso_month>\d\d)-(?P<iso_day>\d\d)\b",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
# A code has a digit; to look ahead for one would take square time.
_ASCII_CODE = re.compile(r"[a-zA-Z0-9](?:[\w.,:/@+-]*[a-zA-Z0-9])?", re.ASCII)
_CODE = regex.compile(r"[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}_.,:/@+-]*[\p{L}\p{M}\p{N}])?")
_NAME = regex.compile(r"\p{Lu}[\p{Ll}\p{M}]+(?: \p{Lu}[\p{Ll}\p{M}]+)+")
_SPACELESS_RUN = regex.compile(rf"[[{SPACELESS}]&&[\p{{L}}]][[{SPACELESS}]\p{{M}}&&[\p{{L}}\p{{M}}]]*", regex.VERSION1)
_COUNTED = regex.compile(rf"(?<![\p{{L}}\p{{M}}\p{{N}}])[0-9]{{1,9}}[[{SPACELESS}]&&\p{{L}}]", regex.VERSION1)
_HIRAGANA = regex.compile(r"\p{Hiragana}+")
_HAN, _HANGUL = regex.compile(r"\p{Han}"), regex.compile(r"\p{Hangul}+")
_STRETCH = regex.compile(r"\p{Hiragana}+|[\p{Katakana}ー]+|\p{Hangul}+|[^\p{Hiragana}\p{Katakana}ー\p{Hangul}]+")
_JOINT = re.compile(
    "|".join(sorted((folded(word) for words in PARTICLES for word in words.split()), key=len, reverse=True))
)
_KANA_JOINT = regex.compile(r"(?<!\p{Hiragana})[のがをにへとはもやかねよでだ](?!\p{Hiragana})")
_ENDING = re.compile(
    "(?<=.)(?:에서는|에서|에게서|에게|한테|으로|부터|까지|처럼|보다|이랑|하고|에는|이나|은|는|이|가|을|를|에|의|로|도|와|과|만|랑)$"
)


class Term(Struct, frozen=True):
    """Something that a question looks for: any of some `forms`, each a row of keys.

    `own` says that the newest message has it, and not only one before it. `cost` is its share of what a question may
    look for.
    """

    text: str
    forms: tuple[Row, ...]
    weight: float = 1.0
    own: bool = True
    cost: float = 1.0


def terms_of(text: str, most: float = TERMS) -> tuple[Term, ...]:
    """Return what a text looks for: codes, dates and amounts as they stand, names, and words that say something."""
    return tuple(_affordable(_Question(composed(text[:QUESTION])).terms(), most))


class _Question:
    """A question that is taken apart: what was found in it is not looked at again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._languages = _languages(text)
        self._found: dict[str, Term] = {}

    def terms(self) -> Iterable[Term]:
        self._take_dates()
        if not self._text.isascii():
            self._take_spaceless()
        code = _ASCII_CODE if self._text.isascii() else _CODE
        self._text = code.sub(self._take_code, self._text)
        for name in _NAME.findall(self._text):
            words = name.lower().split()
            says_something = any(word not in FUNCTION_WORDS[self._languages[0]] for word in words)
            if _is_short(name) and says_something and not any(word in FUNCTION_WORDS[ENGLISH] for word in words):
                self._add(name)
        for word in words_of(self._text):
            if 1 < len(word) <= LONGEST:
                self._add(word)
                if len(word) >= LONG_WORD and (piece := _pieces(word, self._languages)):
                    self._found.setdefault(f"-{word}-", piece)
        return self._found.values()

    def _add(self, text: str, *forms: str, weight: float = 1.0) -> None:
        if len(forms) > 1:
            rows = tuple(dict.fromkeys(row for form in forms for row in _rows(form, self._languages)))
        else:
            rows = _rows(forms[0] if forms else text, self._languages)
        if rows and (key := text.lower()) not in self._found:
            self._found[key] = Term(text, rows, weight)

    def _take_dates(self) -> None:
        for date in _DATE.finditer(self._text):
            self._add(date[0], *_forms(date))
        self._text = _DATE.sub(" ", self._text)

    def _take_spaceless(self) -> None:
        for counted in _COUNTED.findall(self._text):
            self._add(counted, weight=CODE)
        for run in _SPACELESS_RUN.findall(self._text):
            for term in _terms_in(folded(run)):
                self._found.setdefault(term.text, term)
        self._text = _SPACELESS_RUN.sub(" ", self._text)

    def _take_code(self, word: "regex.Match[str]") -> str:
        code = str(word[0])
        if not _is_code(code):
            return code
        self._add(code, *{code: None, code.replace(",", ""): None}, weight=CODE)
        return " "


def _affordable(terms: Iterable[Term], most: float) -> Iterator[Term]:
    spent = 0.0
    for term in islice(terms, MOST):
        spent += term.cost
        if spent > most:
            return
        yield term


def _languages(text: str) -> tuple[str, ...]:
    """Say in which languages the words of a question may have been indexed: a short text does not tell its own."""
    language = language_of(words_of(folded(text)))
    if language is None:
        return (ENGLISH, *LATIN)
    return (ENGLISH,) if language == ENGLISH else (language, ENGLISH)


@lru_cache(10_000)
def _rows(form: str, languages: tuple[str, ...]) -> tuple[Row, ...]:
    """Return the rows of keys that a form is, in each language; a single word may be part of a compound."""
    words = words_of(folded(form))
    if len(words) == 1 and words[0] in FUNCTION_WORDS[languages[0]]:
        return ()
    rows: dict[Row, None] = {}
    for language in languages:
        if row := tuple(keys_in(words, language)):
            rows[row] = None
            if language in COMPOUNDING and len(words) == 1 and len(row[0]) > PART and row[0].isalpha():
                rows[tuple(parts_of(row[0]))] = None
    return tuple(rows)


@lru_cache(10_000)
def _pieces(word: str, languages: tuple[str, ...]) -> Term | None:
    """Look for the beginnings and ends of a word that may be a compound: they may have been said as words."""
    language = languages[0]
    if language not in COMPOUNDING or len(key := stem(folded(word), language)) < LONG_WORD:
        return None
    cuts = range(LEAST_PIECE, len(key) - LEAST_PIECE + 1)
    pieces = dict.fromkeys([*(key[:cut] for cut in cuts), *(key[cut:] for cut in cuts)])
    return Term(word, tuple((piece,) for piece in pieces), PIECE, cost=0.5)


def _is_code(text: str) -> bool:
    return not text.isalpha() and _DIGIT.search(text) is not None and _is_short(text)


def _is_short(text: str) -> bool:
    return len(text) <= LONGEST and len(words_of(text)) <= IN_A_ROW


def _forms(date: re.Match[str]) -> Iterable[str]:
    name = date["month"] or date["its_month"]
    month = _MONTH[name.lower()] if name else int(date["iso_month"])
    day = int(date["day"] or date["day_first"] or date["iso_day"])
    yield date[0]
    if 1 <= month <= len(MONTHS):
        full = MONTHS[month - 1]
        names = {full, full[:3]}
        suffix = "th" if day in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
        yield from (f"{each} {day}{end}" for each in sorted(names) for end in ("", suffix))
        yield f"{day} {full}"
    if not date["iso_month"]:
        yield f"-{month:02}-{day:02}"


def _terms_in(run: str) -> Iterator[Term]:
    """Yield what a folded run in a script without spaces looks for: pairs of characters, and single ones of Chinese."""
    for segment in _segments(run):
        units = units_of(segment)
        if len(units) == 1 and not _HIRAGANA.fullmatch(segment):
            yield Term(segment, ((segment,),), PAIR, cost=0.5)
        for pair in pairwise(units):
            text = "".join(pair)
            yield Term(text, (pair,), KANA if _HIRAGANA.fullmatch(text) else PAIR, cost=0.5)
        if len(units) > 1:
            for unit in filter(_HAN.match, units):
                yield Term(unit, ((unit,),), CHARACTER, cost=0.25)


def _segments(run: str) -> Sequence[str]:
    """Split a run at words that say nothing."""
    if _HANGUL.fullmatch(run):
        return () if run in KOREAN else (_ENDING.sub("", run),)
    return [segment for part in _JOINT.split(run) for segment in _KANA_JOINT.split(part) if segment]


def searched(text: str) -> Search:
    """Return what a text looks for in messages of threads, by the words of `domain.recall.word_index.index_of`.

    Empty where no word says anything.
    """
    return _groups(text, _stretches)


def loosened(text: str) -> Iterator[Search]:
    """Yield what a text looks for, and then searches that messages fit to which lack ever more of it.

    At most half of three words or more may lack, three quarters of pairs of characters, some of which are no words, and
    of a question all but one. That enough is there is said by what else is: of any words, one more than may lack, there
    is one.
    """
    yield searched(text)
    groups = _groups(text, _pairs)[:MOST_GROUPS]
    if text.rstrip().endswith(QUESTION_MARKS):
        most = len(groups) - 1
    elif len(groups) < FEWEST_GROUPS:
        return
    else:
        most = len(groups) * (3 if any(is_spaceless(rows[0][0]) for rows in groups) else 2) // 4
    for lacking in range(1, most + 1):
        yield tuple(tuple(chain.from_iterable(some)) for some in combinations(groups, lacking + 1))


def _groups(text: str, divide: Callable[[str], Iterable[tuple[Row, ...]]]) -> Search:
    text = composed(text[:QUESTION])
    languages = _languages(text)
    groups: dict[tuple[Row, ...], None] = {}
    for word in words_of(folded(text)):
        if is_spaceless(word):
            for segment in _segments(word):
                groups |= dict.fromkeys(divide(segment))
        elif rows := _rows(word[:LONGEST], languages):
            groups[rows] = None
    return tuple(groups)


def _pairs(segment: str) -> Iterator[tuple[Row, ...]]:
    """Yield each pair of characters, but for kana."""
    units = units_of(segment)
    if len(units) == 1:
        yield ((segment,),)
    for pair in pairwise(units):
        if not _HIRAGANA.fullmatch(text := "".join(pair)):
            yield ((text,),)


def words_in(row: Row) -> Row:
    """Return the words of `domain.recall.word_index.index_of` that a text has in which a row of keys occurs."""
    pairs = {first + second for first, second in pairwise(row) if is_spaceless(first) and is_spaceless(second)}
    return (*row, *sorted(pairs)) if pairs else row


def _stretches(segment: str) -> Iterator[tuple[Row, ...]]:
    """Yield what is looked for of each stretch of one script; kana beside Chinese characters are mostly grammar."""
    stretches = _STRETCH.findall(segment)
    for stretch in stretches:
        if len(stretches) > 1 and _HIRAGANA.fullmatch(stretch):
            continue
        units = units_of(stretch)
        if _HAN.match(stretch):
            yield tuple(_tilings(units))
        elif len(units) == 1:
            yield ((units[0],),)
        else:
            yield from [((first + second,),) for first, second in pairwise(units)]


def _tilings(units: Sequence[str]) -> Iterator[Row]:
    """Yield the ways to read Chinese characters as words of two, with a word of one in between if they are odd.

    Nothing else tells its words apart, and the words of a search need not stand together.
    """
    for alone in range(0, len(units), 2) if len(units) % 2 else [None]:
        row, at = list[str](), 0
        while at < len(units):
            size = 1 if at == alone else 2
            row.append("".join(units[at : at + size]))
            at += size
        yield tuple(row)


def places(text: str, terms: Sequence[Term]) -> Sequence[tuple[int, int, int]]:
    """Return where terms occur in a text: where each occurrence begins and ends, and the term's number."""
    beginning = _beginning(tuple(terms))
    if text.isascii() and language_of(words_of(text[:READ].lower())) in {ENGLISH, None}:
        return _places_of_stems(text, beginning)
    keys, spans = located(text)
    found = set()
    for at, key in enumerate(keys):
        for row, number in beginning.get(key, ()):
            if len(row) == 1 or tuple(keys[at : at + len(row)]) == row:
                found.add((spans[at][0], number, spans[at + len(row) - 1][1]))
    return [(start, end, number) for start, number, end in sorted(found)]


@lru_cache(64)  # a question's terms are looked for in one message after the other
def _beginning(terms: tuple[Term, ...]) -> dict[str, list[tuple[Row, int]]]:
    """Return rows by their first key, each with its term's number."""
    rows: dict[str, list[tuple[Row, int]]] = {}
    for number, term in enumerate(terms):
        for row in term.forms:
            rows.setdefault(row[0], []).append((row, number))
    return rows


_TOKEN = re.compile(r"[^\W_]+")


def _places_of_stems(text: str, beginning: dict[str, list[tuple[Row, int]]]) -> Sequence[tuple[int, int, int]]:
    """Look for English words: a stem is the beginning of its word, and is found without looking at all others."""
    lowered = text.lower()
    found = set()
    for first, rows in beginning.items():
        at = lowered.find(first)
        while at >= 0:
            if at and lowered[at - 1].isalnum():  # within a word
                at = lowered.find(first, at + 1)
                continue
            if (word := _TOKEN.match(lowered, at)) is None:
                break
            if stem(word[0]) == first:
                for row, number in rows:
                    if (end := _end_of(row, lowered, word)) is not None:
                        found.add((at, number, end))
            at = lowered.find(first, word.end())
    return [(start, end, number) for start, number, end in sorted(found)]


def _end_of(row: Row, lowered: str, word: re.Match[str]) -> int | None:
    """Return where a row of words ends that begins with a word of a text, if the others follow on it."""
    following: re.Match[str] | None
    for expected in row[1:]:
        following = _TOKEN.search(lowered, word.end())
        while following is not None and not stem(following[0]):
            following = _TOKEN.search(lowered, following.end())
        if following is None or stem(following[0]) != expected:
            return None
        word = following
    return word.end()
