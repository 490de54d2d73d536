"""Older messages that matter again: parts of them, found by what was just said."""

from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import Version
from domain.recall.terms import TERMS, Term, places, terms_of
from domain.recall.text_breaks import begin_at, end_at
from domain.recall.word_index import rows_of, term_ids_of
from domain.thread.events import Recalled
from domain.thread.state import Message

SHARE = 0.35
"""The share of the allowance that one excerpt may take."""

LEAST = 24
"""Tokens that a part of a message has at least: less of it would say too little."""

NEW = 0.2
"""The share of an excerpt's words that no better one has: else it says nothing new."""

HEADING = 8
"""Tokens that an excerpt may cost beyond its text: who said it, and that it is an excerpt."""

FEW = 3
"""A question with fewer terms than that is about what was said right before."""

BEFORE = 0.2
"""What a term counts that was said before the question: it tells which of several things is meant."""

NAMED = 4
"""Terms that `because` names."""

CHARACTERS = 8
"""Characters that a token has at most, mostly. Of a text that is longer only a part is counted, which takes time."""

SEARCHED = 100_000
"""Characters of a message in which a passage is looked for."""

LEAD = 0.25
"""The share of an excerpt that comes before the first match: what is said of a thing mostly follows its name."""


class Excerpt(Struct, frozen=True, gc=False):
    """The characters of a message from `start` on, and why they are shown again. `who` is a role, or a tool's name.

    `edits` is the message that an edit is of. `price` is what it takes in a prompt, if that was counted before.
    """

    message: Version
    who: str
    start: int
    text: str
    tokens: int
    because: str
    edits: Version = Version(0)
    price: int | None = None


class FoundMessage(Struct, frozen=True, gc=False):
    """A message that was found, as the log has it. An edit is found by its own version; it is of another message.

    `tokens` were counted when it was said; None if nobody has. `signs` are of its words, if they are at hand.
    """

    message: Version
    who: str
    text: str
    edits: Version = Version(0)
    tokens: int | None = None
    signs: str = ""


def part_of(said: FoundMessage, part: Recalled) -> Excerpt:
    """Cut out of a message what a prompt recalled of it."""
    return Excerpt(said.message, said.who, part.start, said.text[part.start : part.end], 0, part.because, said.edits)


def query_of(window: Sequence[Message]) -> tuple[Term, ...]:
    """Return what the user's newest message looks for; if that is hardly anything, also what was said before it."""
    spoken = [message for message in window if message.role != "tool" and message.content]
    while spoken and spoken[-1].role != "user":
        spoken.pop()
    if not spoken:
        return ()
    terms = terms_of(spoken[-1].content or "")
    for message in spoken[-2:-4:-1]:
        if len(terms) < FEW:
            known = {term.text.lower() for term in terms}
            earlier = [term for term in terms_of(message.content or "") if term.text.lower() not in known]
            terms = (*terms, *(replace(term, weight=term.weight * BEFORE, own=False) for term in earlier))[:TERMS]
    return terms


def excerpts(
    found: Iterable[FoundMessage],
    terms: Sequence[Term],
    room: int,
    count: Callable[[str], int],
    said_again: Collection[str] = (),
) -> Sequence[Excerpt]:
    """Cut the best passage out of each message, the best message first, until `room` tokens are full.

    What was said before in hardly other words is shown once; what was `said_again` since, not at all.
    """
    chosen: list[Excerpt] = []
    shown: set[str] = set()
    texts: set[str] = set(said_again)
    left = room - HEADING
    for said in found:
        if left <= 0:
            break
        if said.text in texts:
            continue
        texts.add(said.text)
        most = min(int(room * SHARE), left)
        words = frozenset(said.signs) if _fits(said, most) else frozenset()
        if words and not _is_new(words, shown):
            continue
        cut = passage(said, terms, most, count)
        words = words or frozenset(term_ids_of(cut.text) if cut else ())
        if cut and _is_new(words, shown):
            chosen.append(cut)
            shown |= words
            left -= cut.tokens + HEADING
    return chosen


def _fits(said: FoundMessage, most: int) -> bool:
    return said.tokens is not None and said.tokens <= most and len(said.text) <= SEARCHED


def _is_new(words: frozenset[str], shown: set[str]) -> bool:
    """Say whether enough of some words is new; nothing is, where no word says anything."""
    return len(words - shown) >= max(NEW * len(words), 1)


def passage(said: FoundMessage, terms: Sequence[Term], most: int, count: Callable[[str], int]) -> Excerpt | None:
    """Cut out at most so many tokens around most of what was looked for; None if nothing fits."""
    text = said.text[:SEARCHED]
    if most <= 0 or not text or (most < LEAST and len(text) > LEAST * CHARACTERS):
        return None
    if said.tokens is not None and _fits(said, most):
        because = _because(_occurring(said, terms), terms)
        return Excerpt(said.message, said.who, 0, text, said.tokens, because, said.edits)
    found = places(text, terms)
    size = min(len(text), most * CHARACTERS)
    if said.tokens and said.tokens > most:  # mostly, the parts of a text have as many tokens as they are long
        size = min(size, max(1, len(said.text) * most // said.tokens))
    start, end = _around(text, found, terms, size) if size < len(text) else (0, size)
    tokens = count(text[start:end])
    if most < LEAST < tokens:
        return None
    while tokens > most:
        size = min(size - 1, size * most // tokens)
        if size <= 0:
            return None
        start, end = _around(text, found, terms, size)
        tokens = count(text[start:end])
    if start == end:  # not even one character fits
        return None
    because = _because({number for _, _, number in found}, terms)
    return Excerpt(said.message, said.who, start, text[start:end], tokens, because, said.edits)


def _occurring(said: FoundMessage, terms: Sequence[Term]) -> Collection[int]:
    """Return which terms a message has. Where its signs say so, its text is asked as well: some words share a sign."""
    if not said.signs:
        return {number for _, _, number in places(said.text, terms)}
    signs, text = said.signs, said.text.lower()
    stems = text.isascii()  # elsewhere a key need not be the beginning of its word
    return {number for number, row, word in rows_of(tuple(terms)) if row in signs and (not stems or word in text)}


def _around(text: str, found: Sequence[tuple[int, int, int]], terms: Sequence[Term], size: int) -> tuple[int, int]:
    """Place a window of so many characters where it has most of the terms, and begin and end with a word."""
    best, start = 0.0, 0
    first = 0
    for last, (_, end, _) in enumerate(found):
        while end - found[first][0] > size:
            first += 1
            if first > last:
                break
        if first > last:
            continue
        worth = sum(terms[number].weight for number in {number for _, _, number in found[first : last + 1]})
        if worth > best:
            best, start = worth, max(0, found[first][0] - max(0, min(int(size * LEAD), size - (end - found[first][0]))))
    start = begin_at(text, min(start, len(text) - size), size // 8)
    return start, max(start, end_at(text, start + size, size // 8))


def _because(numbers: Collection[int], terms: Sequence[Term]) -> str:
    best = sorted(numbers, key=lambda number: (-terms[number].weight, number))[:NAMED]
    return f"matches {', '.join(terms[number].text for number in best)}" if best else "means something alike"
