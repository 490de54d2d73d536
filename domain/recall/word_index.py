"""A thread's words as one text in which each word is a character: to look for a word is to look for that character.

Hundreds of messages are searched in microseconds that way, and take some 100 bytes each. A word's sign is made of its
key (see `domain.recall.tokenizer`). Some share one, one of 55,000: then a message may be found that has another word.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise, repeat
from sys import intern
from typing import Self
from zlib import crc32

from msgspec import Struct

from domain.ids import ThreadId, Version
from domain.recall.bm25 import Candidate, Hit, Matches, rank, rarest
from domain.recall.function_words import ENGLISH
from domain.recall.stemming import LONGEST, language_of
from domain.recall.terms import Term
from domain.recall.tokenizer import folded, indexed_by, is_spaceless, units_of, words_of

FIRST, MANY = 0x100, 0xD700
"""The characters that are signs: neither control characters nor surrogates, and all take two bytes in memory."""

END = "\n"
"""What ends a message, so that no row of words goes on in the next one."""

CANDIDATES = 200
"""Messages that are looked at more closely, at most."""

OFTEN, KNOWN = 12, 96
"""Messages from which on it is kept which ones have a row of signs, and of how many rows: questions of one thread are
about the same things."""


class WordIndex(Struct, frozen=True):
    """Messages of one thread, in their order: their signs, each with an `END`, and where each one begins.

    `lengths` are of how many different words they are, and `who` said them: a role, or a tool. `known` has which
    messages have the rows of signs that were looked for.
    """

    text: str = ""
    versions: "array[int]" = array("i")
    lengths: "array[int]" = array("i")
    starts: "array[int]" = array("i", [0])
    who: tuple[str, ...] = ()
    known: dict[str, "array[int]"] = {}

    @property
    def last(self) -> Version:
        """The version up to which all messages are in here."""
        return Version(self.versions[-1] if self.versions else 0)

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        known = sum(map(len, self.known.values()))
        return 2 * len(self.text) + 20 * len(self.versions) + 4 * known + 250 * len(self.known) + 500

    def extended(self, versions: Sequence[int], messages: Sequence[str], who: Iterable[str]) -> Self:
        """Add messages that follow on the last one."""
        if not versions:
            return self
        ends = accumulate((len(signs) + 1 for signs in messages), initial=len(self.text))
        longer = type(self)(
            "".join([self.text, END.join(messages), END]),
            self.versions + array("i", versions),
            self.lengths + array("i", map(len, map(frozenset, messages))),
            self.starts[:-1] + array("i", ends),
            (*self.who, *map(intern, who)),
        )
        for row, known in self.known.items():
            longer.known[row] = known + longer.having(row, len(self.versions))
        return longer

    def holding(self, rows: Sequence[str], count: int) -> Collection[int]:
        """Return which of the first `count` messages have any of some rows of signs: their numbers from 0 on."""
        if len(rows) == 1:  # as mostly
            return self._first(rows[0], count)
        return {message for row in rows for message in self._first(row, count)}

    def _first(self, row: str, count: int) -> Sequence[int]:
        having = self.known.get(row)
        if having is None:
            having = self.having(row)
            if len(having) >= OFTEN and len(self.known) < KNOWN:
                self.known[row] = having
        return having[: bisect_left(having, count)]

    def having(self, row: str, first: int = 0) -> "array[int]":
        """Look for a row of signs in all messages from the `first` on: which ones have it."""
        found: list[int] = []
        find, starts = self.text.find, self.starts
        following, at = first, find(row, starts[first])
        while at >= 0:
            following = bisect_right(starts, at, following)
            found.append(following - 1)
            at = find(row, starts[following])
        return array("i", found)

    def at(self, version: Version) -> tuple[str, str]:
        """Return a message's signs, and who said it."""
        number = bisect_left(self.versions, version)
        return self.text[self.starts[number] : self.starts[number + 1] - 1], self.who[number]


class IndexedText(Struct, frozen=True):
    """What a text is found by: a sign for each key in their order, and different words, separated by spaces."""

    signs: str
    words: str


def index_of(text: str) -> IndexedText:
    """Return what a text is found by. Of a script without spaces each character is a word, and each pair of them."""
    words = words_of(folded(text))
    different = dict.fromkeys(words)
    language = language_of(words) or ENGLISH
    if text.isascii():
        entries = list(map(_entry, [word[:LONGEST] for word in different], repeat(language)))  # what is kept is short
    else:
        entries = [
            _entry_of_run(word) if is_spaceless(word) else _entry(word[:LONGEST], language) for word in different
        ]
    signs = dict(zip(different, [signs for signs, _ in entries], strict=True))
    indexed = dict.fromkeys([words for _, words in entries if words])
    return IndexedText("".join(map(signs.__getitem__, words)), " ".join(indexed))


def term_ids_of(text: str) -> str:
    """Return the signs of a text's words in their order, without those that say nothing."""
    return index_of(text).signs


@lru_cache(20_000)
def _entry(word: str, language: str) -> tuple[str, str]:
    """Return a word's signs, and the words that it is found by: mostly one of each."""
    keys = indexed_by(word, language)
    return "".join(map(term_id_of, keys)), " ".join(keys)


def _entry_of_run(run: str) -> tuple[str, str]:
    units = units_of(run)
    pairs = [first + second for first, second in pairwise(units)]
    return "".join(map(term_id_of, units)), " ".join([*units, *pairs])


@lru_cache(20_000)
def term_id_of(key: str) -> str:
    """Return a key's sign."""
    return chr(FIRST + crc32(key.encode(errors="surrogatepass")) % (MANY - FIRST))


@lru_cache(64)  # of each message that is recalled it is said why
def rows_of(terms: tuple[Term, ...]) -> Sequence[tuple[int, str, str]]:
    """Return the rows of signs that terms are: each with its term's number, and its first key."""
    rows = {(number, "".join(map(term_id_of, row))): row[0] for number, term in enumerate(terms) for row in term.forms}
    return [(number, row, first) for (number, row), first in rows.items()]


Part = tuple[ThreadId, WordIndex, Version]
"""A thread of a lineage, its messages, and the last version that is of interest."""


def find(parts: Sequence[Part], terms: Sequence[Term], limit: int) -> Sequence[Hit]:
    """Return the messages that have most to do with some terms; see `rank`."""
    of = {thread_id: concordance for thread_id, concordance, _ in parts}
    return [
        Hit(hit.thread_id, hit.version, hit.score, *of[hit.thread_id].at(hit.version), hit.rare, hit.worth)
        for hit in rank(matches(parts, terms), terms, limit)
    ]


def matches(parts: Iterable[Part], terms: Sequence[Term]) -> Matches:
    """Find the messages that have any of some terms; where these are very many, any of the rarer ones."""
    rows: list[list[str]] = [[] for _ in terms]
    for number, row, _ in rows_of(tuple(terms)):
        rows[number].append(row)
    found: list[tuple[ThreadId, WordIndex, list[Collection[int]]]] = []
    messages, length = 0, 0
    counts = [0] * len(terms)
    for thread_id, concordance, upto in parts:
        count = bisect_right(concordance.versions, upto)
        holding = [concordance.holding(wanted, count) for wanted in rows]
        found.append((thread_id, concordance, holding))
        messages, length = messages + count, length + sum(concordance.lengths[:count])
        counts = [many + len(here) for many, here in zip(counts, holding, strict=True)]
    rare = frozenset(rarest(counts, CANDIDATES))
    candidates = [each for place in found for each in _candidates(*place, rare)]
    if len(found) > 1:
        candidates.sort(key=lambda each: -each.version)
    return Matches(messages, length / max(messages, 1), tuple(map(float, counts)), candidates[:CANDIDATES])


def _candidates(
    thread_id: ThreadId, concordance: WordIndex, holding: Sequence[Iterable[int]], rare: Iterable[int]
) -> Sequence[Candidate]:
    """Make candidates of the messages that have any of the rarer terms, each with all that it has."""
    terms: dict[int, int] = {}
    get = terms.get
    for number in rare:
        bit = 1 << number
        for message in holding[number]:
            terms[message] = get(message, 0) | bit
    for number in set(range(len(holding))).difference(rare):
        for message in holding[number]:
            if message in terms:
                terms[message] |= 1 << number
    versions, lengths = concordance.versions, concordance.lengths
    return [
        Candidate(thread_id, Version(versions[message]), lengths[message], terms[message])
        for message in sorted(terms, reverse=True)
    ]
