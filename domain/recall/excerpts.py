"""Excerpts: the best passages of older messages that a query found."""

from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import Version
from domain.recall.terms import MAX_QUERY_COST, Term, occurrences, terms_of
from domain.recall.text_breaks import begin_at, end_at
from domain.recall.word_index import rows_of, term_ids_of
from domain.thread.events import Recalled
from domain.thread.state import Message

MAX_EXCERPT_SHARE = 0.35
"""The share of the token allowance that one excerpt may take."""

MIN_EXCERPT_TOKENS = 24
"""A shorter part of a message would say too little."""

MIN_NEW_SHARE = 0.2
"""The share of an excerpt's words that no better excerpt has. With fewer it repeats the others."""

EXCERPT_OVERHEAD_TOKENS = 8
"""What an excerpt may take beyond its text: its bullet and who said it."""

FEW_TERMS = 3
"""A question with fewer terms refers to the messages right before it."""

EARLIER_TERM_WEIGHT = 0.2
"""The weight of a term from the messages before the question: it tells which of several things is meant."""

MAX_NAMED_TERMS = 4
"""Terms that `because` names, those with the highest weights."""

MAX_CHARS_PER_TOKEN = 8
"""Few tokens are longer. A text with more characters than fit is cut before it is counted, because counting is slow."""

MAX_SEARCHED_CHARS = 100_000
"""The part of a message in which a passage is looked for."""

LEAD_SHARE = 0.25
"""The share of an excerpt before its first match: the words about a thing mostly follow its name."""


class Excerpt(Struct, frozen=True, gc=False):
    """A part of a message from character `start` on, and why it is recalled. `who` is a role or a tool's name.

    `edits` is the version of the message that an edit replaces. `prompt_tokens` is what the excerpt takes in a prompt,
    if that was counted already.
    """

    message: Version
    who: str
    start: int
    text: str
    tokens: int
    because: str
    edits: Version = Version(0)
    prompt_tokens: int | None = None


class FoundMessage(Struct, frozen=True, gc=False):
    """A message that was found, as it is in the log. An edit is found by its own version and replaces another message.

    `tokens` were counted when it was recorded, None if they were not. `term_ids` are of its words, if known.
    """

    message: Version
    who: str
    text: str
    edits: Version = Version(0)
    tokens: int | None = None
    term_ids: str = ""


def part_of(message: FoundMessage, part: Recalled) -> Excerpt:
    """Return the excerpt of a message that a prompt recalled."""
    text = message.text[part.start : part.end]
    return Excerpt(message.message, message.who, part.start, text, 0, part.because, message.edits)


def query_of(window: Sequence[Message]) -> tuple[Term, ...]:
    """Return the terms of the user's newest message; if they are few, also those of the two messages before it."""
    spoken = [message for message in window if message.role != "tool" and message.content]
    while spoken and spoken[-1].role != "user":
        spoken.pop()
    if not spoken:
        return ()
    terms = terms_of(spoken[-1].content or "")
    for message in spoken[-2:-4:-1]:
        if len(terms) < FEW_TERMS:
            known = {term.text.lower() for term in terms}
            earlier = [term for term in terms_of(message.content or "") if term.text.lower() not in known]
            lighter = [replace(term, weight=term.weight * EARLIER_TERM_WEIGHT, own=False) for term in earlier]
            terms = (*terms, *lighter)[:MAX_QUERY_COST]
    return terms


def excerpts(
    found: Iterable[FoundMessage],
    terms: Sequence[Term],
    room: int,
    count: Callable[[str], int],
    said_again: Collection[str] = (),
) -> Sequence[Excerpt]:
    """Return the best passage of each message, the best message first, until `room` tokens are full.

    Near duplicates of a better passage are omitted, and so are messages with a text in `said_again`.
    """
    chosen: list[Excerpt] = []
    shown: set[str] = set()
    texts: set[str] = set(said_again)
    left = room - EXCERPT_OVERHEAD_TOKENS
    for message in found:
        if left <= 0:
            break
        if message.text in texts:
            continue
        texts.add(message.text)
        most = min(int(room * MAX_EXCERPT_SHARE), left)
        words = frozenset(message.term_ids) if _fits(message, most) else frozenset()
        if words and not _is_new(words, shown):
            continue
        cut = passage(message, terms, most, count)
        words = words or frozenset(term_ids_of(cut.text) if cut else ())
        if cut and _is_new(words, shown):
            chosen.append(cut)
            shown |= words
            left -= cut.tokens + EXCERPT_OVERHEAD_TOKENS
    return chosen


def _fits(message: FoundMessage, most: int) -> bool:
    return message.tokens is not None and message.tokens <= most and len(message.text) <= MAX_SEARCHED_CHARS


def _is_new(words: frozenset[str], shown: set[str]) -> bool:
    """Say whether enough of the words are new. Without any word, nothing is."""
    return len(words - shown) >= max(MIN_NEW_SHARE * len(words), 1)


def passage(message: FoundMessage, terms: Sequence[Term], most: int, count: Callable[[str], int]) -> Excerpt | None:
    """Return the passage of at most `most` tokens with most of the terms; None if nothing fits."""
    text = message.text[:MAX_SEARCHED_CHARS]
    if most <= 0 or not text or (most < MIN_EXCERPT_TOKENS and len(text) > MIN_EXCERPT_TOKENS * MAX_CHARS_PER_TOKEN):
        return None
    if message.tokens is not None and _fits(message, most):
        because = _because(_terms_in(message, terms), terms)
        return Excerpt(message.message, message.who, 0, text, message.tokens, because, message.edits)
    found = occurrences(text, terms)
    size = min(len(text), most * MAX_CHARS_PER_TOKEN)
    if message.tokens and message.tokens > most:  # the tokens of a part are mostly in proportion to its length
        size = min(size, max(1, len(message.text) * most // message.tokens))
    start, end = _best_window(text, found, terms, size) if size < len(text) else (0, size)
    tokens = count(text[start:end])
    if most < MIN_EXCERPT_TOKENS < tokens:
        return None
    while tokens > most:
        size = min(size - 1, size * most // tokens)
        if size <= 0:
            return None
        start, end = _best_window(text, found, terms, size)
        tokens = count(text[start:end])
    if start == end:  # not even one character fits
        return None
    because = _because({number for _, _, number in found}, terms)
    return Excerpt(message.message, message.who, start, text[start:end], tokens, because, message.edits)


def _terms_in(message: FoundMessage, terms: Sequence[Term]) -> Collection[int]:
    """Return which terms a message has. A matching term id is verified in the text: some words share an id."""
    if not message.term_ids:
        return {number for _, _, number in occurrences(message.text, terms)}
    term_ids, text = message.term_ids, message.text.lower()
    stems = text.isascii()  # in other texts a key need not be the beginning of its word
    return {number for number, row, word in rows_of(tuple(terms)) if row in term_ids and (not stems or word in text)}


def _best_window(text: str, found: Sequence[tuple[int, int, int]], terms: Sequence[Term], size: int) -> tuple[int, int]:
    """Place a window of `size` characters where its terms weigh most. It begins and ends at a word if possible."""
    best, start = 0.0, 0
    first = 0
    for last, (_, end, _) in enumerate(found):
        first = next((place for place in range(first, last + 1) if end - found[place][0] <= size), last + 1)
        if first > last:
            continue
        begin = found[first][0]
        weight = sum(terms[number].weight for number in {number for _, _, number in found[first : last + 1]})
        if weight > best:
            best, start = weight, max(0, begin - max(0, min(int(size * LEAD_SHARE), size - (end - begin))))
    start = begin_at(text, min(start, len(text) - size), size // 8)
    return start, max(start, end_at(text, start + size, size // 8))


def _because(numbers: Collection[int], terms: Sequence[Term]) -> str:
    best = sorted(numbers, key=lambda number: (-terms[number].weight, number))[:MAX_NAMED_TERMS]
    return f"matches {', '.join(terms[number].text for number in best)}" if best else "means something alike"
