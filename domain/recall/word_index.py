"""An inverted index of a thread's words, held as one text: each word is one character, and searching is `str.find`.

Hundreds of messages are searched in microseconds that way, and take about 100 bytes each. A word's character is its
term id, a hash of its key (see `domain.recall.tokenizer`). Two keys share an id with a chance of 1 in 55,000. Then a
message may be found that has another word.
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
from domain.recall.stemming import MAX_WORD_CHARS, language_of
from domain.recall.terms import Term
from domain.recall.tokenizer import folded, indexed_by, is_spaceless, units_of, words_of

FIRST_ID, END_ID = 0x100, 0xD700
"""The range of term ids: neither control characters nor surrogates, and all take two bytes in memory."""

SEPARATOR = "\n"
"""Ends a message, so that no row of words matches across two messages."""

MAX_CANDIDATES = 200
"""Messages that are ranked, at most."""

MIN_CACHED_MATCHES, MAX_CACHED_ROWS = 12, 96
"""The matches of a row of term ids are cached if there are at least so many, for at most so many rows: the questions of
one thread are about the same things."""


class WordIndex(Struct, frozen=True):
    """The messages of one thread in their order: their term ids, each message with a `SEPARATOR`, and where it begins.

    `lengths` are numbers of different words. `who` said each message: a role, or a tool. `known` caches which messages
    have a row of term ids.
    """

    text: str = ""
    versions: "array[int]" = array("i")
    lengths: "array[int]" = array("i")
    starts: "array[int]" = array("i", [0])
    who: tuple[str, ...] = ()
    known: dict[str, "array[int]"] = {}

    @property
    def last(self) -> Version:
        """The version up to which all messages are indexed."""
        return Version(self.versions[-1] if self.versions else 0)

    @property
    def size(self) -> int:
        """The approximate memory in bytes."""
        known = sum(map(len, self.known.values()))
        return 2 * len(self.text) + 20 * len(self.versions) + 4 * known + 250 * len(self.known) + 500

    def extended(self, versions: Sequence[int], messages: Sequence[str], who: Iterable[str]) -> Self:
        """Return an index with further messages, which follow the last one."""
        if not versions:
            return self
        ends = accumulate((len(term_ids) + 1 for term_ids in messages), initial=len(self.text))
        longer = type(self)(
            "".join([self.text, SEPARATOR.join(messages), SEPARATOR]),
            self.versions + array("i", versions),
            self.lengths + array("i", map(len, map(frozenset, messages))),
            self.starts[:-1] + array("i", ends),
            (*self.who, *map(intern, who)),
        )
        for row, known in self.known.items():
            longer.known[row] = known + longer.messages_with(row, len(self.versions))
        return longer

    def messages_with_any(self, rows: Sequence[str], count: int) -> Collection[int]:
        """Return which of the first `count` messages have any of the rows of term ids: their numbers from 0 on."""
        if len(rows) == 1:  # mostly
            return self._cached_messages_with(rows[0], count)
        return {message for row in rows for message in self._cached_messages_with(row, count)}

    def _cached_messages_with(self, row: str, count: int) -> Sequence[int]:
        matching = self.known.get(row)
        if matching is None:
            matching = self.messages_with(row)
            if len(matching) >= MIN_CACHED_MATCHES and len(self.known) < MAX_CACHED_ROWS:
                self.known[row] = matching
        return matching[: bisect_left(matching, count)]

    def messages_with(self, row: str, first: int = 0) -> "array[int]":
        """Return the numbers of the messages from the `first` on that have a row of term ids."""
        found: list[int] = []
        find, starts = self.text.find, self.starts
        following, at = first, find(row, starts[first])
        while at >= 0:
            following = bisect_right(starts, at, following)
            found.append(following - 1)
            at = find(row, starts[following])
        return array("i", found)

    def at(self, version: Version) -> tuple[str, str]:
        """Return a message's term ids, and who said it."""
        number = bisect_left(self.versions, version)
        return self.text[self.starts[number] : self.starts[number + 1] - 1], self.who[number]


class IndexedText(Struct, frozen=True):
    """What a text is found by: the term id of each key, in order, and the different words, separated by spaces."""

    term_ids: str
    words: str


def index_of(text: str) -> IndexedText:
    """Index a text. In a script without spaces each character is a word, and so is each pair of characters."""
    words = words_of(folded(text))
    different = dict.fromkeys(words)
    language = language_of(words) or ENGLISH
    if text.isascii():
        # words are cut before they are cached
        entries = list(map(_indexed_word, [word[:MAX_WORD_CHARS] for word in different], repeat(language)))
    else:
        entries = [
            _indexed_run(word) if is_spaceless(word) else _indexed_word(word[:MAX_WORD_CHARS], language)
            for word in different
        ]
    term_ids = dict(zip(different, [term_ids for term_ids, _ in entries], strict=True))
    indexed = dict.fromkeys([words for _, words in entries if words])
    return IndexedText("".join(map(term_ids.__getitem__, words)), " ".join(indexed))


def term_ids_of(text: str) -> str:
    """Return the term ids of a text's words in their order, without function words."""
    return index_of(text).term_ids


@lru_cache(20_000)
def _indexed_word(word: str, language: str) -> tuple[str, str]:
    """Return a word's term ids, and the words that it is found by: mostly one of each."""
    keys = indexed_by(word, language)
    return "".join(map(term_id_of, keys)), " ".join(keys)


def _indexed_run(run: str) -> tuple[str, str]:
    units = units_of(run)
    pairs = [first + second for first, second in pairwise(units)]
    return "".join(map(term_id_of, units)), " ".join([*units, *pairs])


@lru_cache(20_000)
def term_id_of(key: str) -> str:
    """Return a key's term id: one character."""
    return chr(FIRST_ID + crc32(key.encode(errors="surrogatepass")) % (END_ID - FIRST_ID))


@lru_cache(64)  # called for each recalled message, with the same terms
def rows_of(terms: tuple[Term, ...]) -> Sequence[tuple[int, str, str]]:
    """Return the rows of term ids of some terms: each with its term's number, and its first key."""
    rows = {(number, "".join(map(term_id_of, row))): row[0] for number, term in enumerate(terms) for row in term.forms}
    return [(number, row, first) for (number, row), first in rows.items()]


Part = tuple[ThreadId, WordIndex, Version]
"""A thread of a lineage, its index, and the last version to search."""


def find(parts: Sequence[Part], terms: Sequence[Term], limit: int) -> Sequence[Hit]:
    """Return the messages that match best; see `rank`."""
    of = {thread_id: index for thread_id, index, _ in parts}
    return [
        Hit(hit.thread_id, hit.version, hit.score, *of[hit.thread_id].at(hit.version), hit.rare, hit.weights)
        for hit in rank(matches(parts, terms), terms, limit)
    ]


def matches(parts: Iterable[Part], terms: Sequence[Term]) -> Matches:
    """Find the messages that have any of the terms; if there are too many, any of the rarer ones."""
    rows: list[list[str]] = [[] for _ in terms]
    for number, row, _ in rows_of(tuple(terms)):
        rows[number].append(row)
    found: list[tuple[ThreadId, WordIndex, list[Collection[int]]]] = []
    messages, length = 0, 0
    counts = [0] * len(terms)
    for thread_id, index, upto in parts:
        count = bisect_right(index.versions, upto)
        matching = [index.messages_with_any(wanted, count) for wanted in rows]
        found.append((thread_id, index, matching))
        messages, length = messages + count, length + sum(index.lengths[:count])
        counts = [many + len(here) for many, here in zip(counts, matching, strict=True)]
    rare = frozenset(rarest(counts, MAX_CANDIDATES))
    candidates = [each for place in found for each in _candidates(*place, rare)]
    if len(found) > 1:
        candidates.sort(key=lambda each: -each.version)
    return Matches(messages, length / max(messages, 1), tuple(map(float, counts)), candidates[:MAX_CANDIDATES])


def _candidates(
    thread_id: ThreadId, index: WordIndex, matching: Sequence[Iterable[int]], rare: Iterable[int]
) -> Sequence[Candidate]:
    """Return the messages that have any of the rarer terms, each with all its terms."""
    terms: dict[int, int] = {}
    get = terms.get
    for number in rare:
        bit = 1 << number
        for message in matching[number]:
            terms[message] = get(message, 0) | bit
    for number in set(range(len(matching))).difference(rare):
        for message in matching[number]:
            if message in terms:
                terms[message] |= 1 << number
    versions, lengths = index.versions, index.lengths
    return [
        Candidate(thread_id, Version(versions[message]), lengths[message], terms[message])
        for message in sorted(terms, reverse=True)
    ]
