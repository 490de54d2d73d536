"""Query terms: the codes, dates, amounts, names and words that a question looks for.

Each term is looked for by the keys that `domain.recall.tokenizer` gives the words of messages. The search for threads
uses the same words, without weights.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, combinations, islice, pairwise

import regex
from msgspec import Struct

from domain.recall import tokenizer
from domain.recall.function_words import ENGLISH, FUNCTION_WORDS, KOREAN, PARTICLES
from domain.recall.stemming import LATIN, MAX_WORD_CHARS, language_of, stem
from domain.recall.tokenizer import COMPOUNDING, SPACELESS, composed, folded, is_spaceless, located, units_of, words_of

MAX_QUERY_COST = 20
"""The cost of all terms of a question, at most. A word costs 1. Of a pasted page the first words count."""

MAX_TERMS = 40
"""Terms of a question: twice as many as words, since a pair of characters costs half a word."""

MAX_QUERY_CHARS = 10_000
"""The part of a question that is read."""

LANGUAGE_SAMPLE_CHARS = 4_000
"""The part of a text by which its language is detected before terms are looked for in it."""

MIN_RELAXED_GROUPS, MAX_RELAXED_GROUPS = 3, 8
"""A search of at least so many words may match without some of them; at most so many are considered then."""

QUESTION_MARKS = ("?", "\uff1f", "\u061f")

MAX_PHRASE_WORDS = 8
"""Words of a code or a name. What is longer is a text, which is looked for word by word."""

CODE_WEIGHT, PAIR_WEIGHT, CHARACTER_WEIGHT, KANA_WEIGHT, PIECE_WEIGHT = 1.5, 1.0, 0.3, 0.4, 0.6
"""Weights of a code, two characters in a row, one character, kana syllables, which are mostly grammar, and a part of a
compound. A word weighs 1."""

MIN_PIECE_LETTERS = 5
"""A shorter part of a compound is not looked for as a word."""

Row = tuple[str, ...]
"""Consecutive keys of a text."""

Search = tuple[tuple[Row, ...], ...]
"""A search for threads: all groups must match, any row of a group, and all words of a row in any order."""

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
# A code has a digit. A lookahead for one would take quadratic time.
_ASCII_CODE = re.compile(r"[a-zA-Z0-9](?:[\w.,:/@+-]*[a-zA-Z0-9])?", re.ASCII)
_CODE = regex.compile(r"[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}_.,:/@+-]*[\p{L}\p{M}\p{N}])?")
_NAME = regex.compile(r"\p{Lu}[\p{Ll}\p{M}]+(?: \p{Lu}[\p{Ll}\p{M}]+)+")
_SPACELESS_RUN = regex.compile(rf"[[{SPACELESS}]&&[\p{{L}}]][[{SPACELESS}]\p{{M}}&&[\p{{L}}\p{{M}}]]*", regex.VERSION1)
_NUMBER_WITH_COUNTER = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}\p{{N}}])[0-9]{{1,9}}[[{SPACELESS}]&&\p{{L}}]", regex.VERSION1
)
_HIRAGANA = regex.compile(r"\p{Hiragana}+")
_HAN, _HANGUL = regex.compile(r"\p{Han}"), regex.compile(r"\p{Hangul}+")
_SCRIPT_RUN = regex.compile(r"\p{Hiragana}+|[\p{Katakana}ー]+|\p{Hangul}+|[^\p{Hiragana}\p{Katakana}ー\p{Hangul}]+")
_PARTICLE = re.compile(
    "|".join(sorted((folded(word) for words in PARTICLES for word in words.split()), key=len, reverse=True))
)
_KANA_PARTICLE = regex.compile(r"(?<!\p{Hiragana})[のがをにへとはもやかねよでだ](?!\p{Hiragana})")
_ENDING = re.compile(
    "(?<=.)(?:에서는|에서|에게서|에게|한테|으로|부터|까지|처럼|보다|이랑|하고|에는|이나|은|는|이|가|을|를|에|의|로|도|와|과|만|랑)$"
)


class Term(Struct, frozen=True):
    """Something that a question looks for: any of its `forms`, each a row of keys.

    `own`: the newest message has it, not only one before. `cost` is its share of `MAX_QUERY_COST`.
    """

    text: str
    forms: tuple[Row, ...]
    weight: float = 1.0
    own: bool = True
    cost: float = 1.0


def terms_of(text: str, most: float = MAX_QUERY_COST) -> tuple[Term, ...]:
    """Return the terms of a text: codes, dates, amounts, names, and words that are no function words."""
    terms = [*islice(_QueryParser(composed(text[:MAX_QUERY_CHARS])).terms(), MAX_TERMS)]
    spent = accumulate(term.cost for term in terms)
    return tuple([term for term, cost in zip(terms, spent, strict=True) if cost <= most])


class _QueryParser:
    """A question that is taken apart: what was found in it is not looked at again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._languages = _languages(text)
        self._found: dict[str, Term] = {}

    def terms(self) -> Iterable[Term]:
        for date in _DATE.finditer(self._text):
            self._add(date[0], *_date_forms(date))
        self._text = _DATE.sub(" ", self._text)
        if not self._text.isascii():
            self._take_spaceless()
        code = _ASCII_CODE if self._text.isascii() else _CODE
        self._text = code.sub(self._take_code, self._text)
        for name in _NAME.findall(self._text):
            words = name.lower().split()
            has_content_word = any(word not in FUNCTION_WORDS[self._languages[0]] for word in words)
            if _is_short(name) and has_content_word and not any(word in FUNCTION_WORDS[ENGLISH] for word in words):
                self._add(name)
        for word in words_of(self._text):
            if 1 < len(word) <= MAX_WORD_CHARS:
                self._add(word)
                if len(word) >= tokenizer.MIN_COMPOUND_LETTERS and (piece := _compound_pieces(word, self._languages)):
                    self._found.setdefault(f"-{word}-", piece)
        return self._found.values()

    def _add(self, text: str, *forms: str, weight: float = 1.0) -> None:
        rows = tuple(dict.fromkeys(row for form in forms or (text,) for row in _key_rows(form, self._languages)))
        if rows and (key := text.lower()) not in self._found:
            self._found[key] = Term(text, rows, weight)

    def _take_spaceless(self) -> None:
        for counted in _NUMBER_WITH_COUNTER.findall(self._text):
            self._add(counted, weight=CODE_WEIGHT)
        for run in _SPACELESS_RUN.findall(self._text):
            for term in _spaceless_terms(folded(run)):
                self._found.setdefault(term.text, term)
        self._text = _SPACELESS_RUN.sub(" ", self._text)

    def _take_code(self, word: "regex.Match[str]") -> str:
        code = str(word[0])
        if code.isalpha() or not _DIGIT.search(code) or not _is_short(code):
            return code
        self._add(code, code, code.replace(",", ""), weight=CODE_WEIGHT)
        return " "


def _languages(text: str) -> tuple[str, ...]:
    """Return the languages in which the words of a text may be indexed: several if the text is too short to tell."""
    language = language_of(words_of(folded(text)))
    if language is None:
        return (ENGLISH, *LATIN)
    return (ENGLISH,) if language == ENGLISH else (language, ENGLISH)


@lru_cache(10_000)
def _key_rows(form: str, languages: tuple[str, ...]) -> tuple[Row, ...]:
    """Return a form's row of keys in each language. A single word may also be part of a compound."""
    words = words_of(folded(form))
    if len(words) == 1 and words[0] in FUNCTION_WORDS[languages[0]]:
        return ()
    rows: dict[Row, None] = {}
    for language in languages:
        if row := tuple(tokenizer.keys_in(words, language)):
            rows[row] = None
            parts = tokenizer.parts_of(row[0]) if len(words) == 1 and row[0].isalpha() else ()
            if language in COMPOUNDING and len(parts) > 1:
                rows[tuple(parts)] = None
    return tuple(rows)


@lru_cache(10_000)
def _compound_pieces(word: str, languages: tuple[str, ...]) -> Term | None:
    """Return a term for the beginnings and ends of a word that may be a compound: messages may have them as words."""
    language = languages[0]
    if language not in COMPOUNDING or len(key := stem(folded(word), language)) < tokenizer.MIN_COMPOUND_LETTERS:
        return None
    cuts = range(MIN_PIECE_LETTERS, len(key) - MIN_PIECE_LETTERS + 1)
    pieces = dict.fromkeys([*(key[:cut] for cut in cuts), *(key[cut:] for cut in cuts)])
    return Term(word, tuple((piece,) for piece in pieces), PIECE_WEIGHT, cost=0.5)


def _is_short(text: str) -> bool:
    return len(text) <= MAX_WORD_CHARS and len(words_of(text)) <= MAX_PHRASE_WORDS


def _date_forms(date: re.Match[str]) -> Iterable[str]:
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


def _spaceless_terms(run: str) -> Iterator[Term]:
    """Yield the terms of a folded run in a script without spaces: pairs of characters, single Chinese characters."""
    for segment in _segments(run):
        units = units_of(segment)
        if len(units) == 1 and not _HIRAGANA.fullmatch(segment):
            yield Term(segment, ((segment,),), PAIR_WEIGHT, cost=0.5)
        for pair in pairwise(units):
            text = "".join(pair)
            yield Term(text, (pair,), KANA_WEIGHT if _HIRAGANA.fullmatch(text) else PAIR_WEIGHT, cost=0.5)
        if len(units) > 1:
            for unit in filter(_HAN.match, units):
                yield Term(unit, ((unit,),), CHARACTER_WEIGHT, cost=0.25)


def _segments(run: str) -> Sequence[str]:
    """Split a run at particles."""
    if _HANGUL.fullmatch(run):
        return () if run in KOREAN else (_ENDING.sub("", run),)
    return [segment for part in _PARTICLE.split(run) for segment in _KANA_PARTICLE.split(part) if segment]


def exact_search(text: str) -> Search:
    """Return the search of a text, by the words of `domain.recall.word_index.index_of`. Empty if it has none."""
    return _groups(text, _search_units)


def relaxed_searches(text: str) -> Iterator[Search]:
    """Yield the search of a text, then searches that match messages which lack more and more of its words.

    At most half of three words or more may be missing, three quarters of pairs of characters, some of which are no
    words, and all words but one of a question. A search for "n may be missing" has a group for each n + 1 words: one of
    them must be there.
    """
    yield exact_search(text)
    groups = _groups(text, _pairs)[:MAX_RELAXED_GROUPS]
    if text.rstrip().endswith(QUESTION_MARKS):
        most = len(groups) - 1
    else:
        share = 3 if any(is_spaceless(rows[0][0]) for rows in groups) else 2
        most = len(groups) * share // 4 if len(groups) >= MIN_RELAXED_GROUPS else 0
    for missing in range(1, most + 1):
        yield tuple(tuple(chain.from_iterable(some)) for some in combinations(groups, missing + 1))


def _groups(text: str, divide: Callable[[str], Iterable[tuple[Row, ...]]]) -> Search:
    text = composed(text[:MAX_QUERY_CHARS])
    languages = _languages(text)
    groups: dict[tuple[Row, ...], None] = {}
    for word in words_of(folded(text)):
        if is_spaceless(word):
            for segment in _segments(word):
                groups |= dict.fromkeys(divide(segment))
        elif rows := _key_rows(word[:MAX_WORD_CHARS], languages):
            groups[rows] = None
    return tuple(groups)


def _pairs(segment: str) -> Iterator[tuple[Row, ...]]:
    """Yield each pair of characters except kana."""
    units = units_of(segment)
    if len(units) == 1:
        yield ((segment,),)
    for pair in pairwise(units):
        if not _HIRAGANA.fullmatch(text := "".join(pair)):
            yield ((text,),)


def words_in(row: Row) -> Row:
    """Return the words of `domain.recall.word_index.index_of` that every text with this row of keys has."""
    pairs = {first + second for first, second in pairwise(row) if is_spaceless(first) and is_spaceless(second)}
    return (*row, *sorted(pairs)) if pairs else row


def _search_units(segment: str) -> Iterator[tuple[Row, ...]]:
    """Yield the alternatives for each stretch of one script. Kana next to Chinese characters are ignored as grammar."""
    stretches = _SCRIPT_RUN.findall(segment)
    for stretch in stretches:
        if len(stretches) > 1 and _HIRAGANA.fullmatch(stretch):
            continue
        units = units_of(stretch)
        if _HAN.match(stretch):
            yield tuple(_two_character_words(units))
        elif len(units) == 1:
            yield ((units[0],),)
        else:
            yield from [((first + second,),) for first, second in pairwise(units)]


def _two_character_words(units: Sequence[str]) -> Iterator[Row]:
    """Yield the ways to divide Chinese characters into words of two, with a word of one if their number is odd.

    Nothing else tells the words apart, and the words of a search need not be adjacent.
    """
    size = len(units)
    for alone in range(0, size, 2) if size % 2 else [size - 1]:
        starts = [*range(0, alone + 1, 2), *range(alone + 1, size, 2), size]
        yield tuple("".join(units[start:end]) for start, end in pairwise(starts))


def occurrences(text: str, terms: Sequence[Term]) -> Sequence[tuple[int, int, int]]:
    """Return the occurrences of terms in a text: the begin and end of each, and the term's number."""
    rows = _rows_by_first_key(tuple(terms))
    if text.isascii() and language_of(words_of(text[:LANGUAGE_SAMPLE_CHARS].lower())) in {ENGLISH, None}:
        return _english_occurrences(text, rows)
    places = located(text)
    found = set()
    for at, (key, start, _) in enumerate(places):
        for row, number in rows.get(key, ()):
            if len(row) == 1 or tuple([following for following, _, _ in places[at : at + len(row)]]) == row:
                found.add((start, number, places[at + len(row) - 1][2]))
    return [(start, end, number) for start, number, end in sorted(found)]


@lru_cache(64)  # a question's terms are looked for in many messages in turn
def _rows_by_first_key(terms: tuple[Term, ...]) -> dict[str, list[tuple[Row, int]]]:
    """Return rows by their first key, each with its term's number."""
    rows: dict[str, list[tuple[Row, int]]] = {}
    for number, term in enumerate(terms):
        for row in term.forms:
            rows.setdefault(row[0], []).append((row, number))
    return rows


_TOKEN = re.compile(r"[^\W_]+")


def _english_occurrences(text: str, rows_by_key: dict[str, list[tuple[Row, int]]]) -> Sequence[tuple[int, int, int]]:
    """Look for English words. A stem is the beginning of its word, so `str.find` finds it without reading all words."""
    lowered = text.lower()
    found = set()
    for first, rows in rows_by_key.items():
        at = lowered.find(first)
        while at >= 0:
            if at and lowered[at - 1].isalnum():  # within a word
                at = lowered.find(first, at + 1)
                continue
            if (word := _TOKEN.match(lowered, at)) is None:
                break
            if stem(word[0]) == first:
                for row, number in rows:
                    if (end := _row_end(row, lowered, word)) is not None:
                        found.add((at, number, end))
            at = lowered.find(first, word.end())
    return [(start, end, number) for start, number, end in sorted(found)]


def _row_end(row: Row, lowered: str, word: re.Match[str]) -> int | None:
    """Return where a row of words ends that begins with `word`; None if the others do not follow it."""
    following: re.Match[str] | None
    for expected in row[1:]:
        following = _TOKEN.search(lowered, word.end())
        while following is not None and not stem(following[0]):
            following = _TOKEN.search(lowered, following.end())
        if following is None or stem(following[0]) != expected:
            return None
        word = following
    return word.end()
