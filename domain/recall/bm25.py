"""How much older messages have to do with what a question looks for. Pure functions over counts.

Each store says which terms a message has, and how many messages have each term; the score is made here, so that
all stores rank alike: Okapi BM25 with the frequencies of the one thread, so that a booking code weighs many times what
"flight" does where everybody speaks of flights. What was said shortly before or after counts in part: a question
names the trip, and the answer is in a tool's result that names only its code.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from msgspec import Struct

from domain.ids import ThreadId, Version
from domain.recall.terms import Term, places

SATURATION, BY_LENGTH = 1.2, 0.05
"""BM25's k1 and b: how much a long message has to say more to count. Hardly: a tool's result is long, and
what is asked for is mostly in one. Which part of it is shown is another question."""

NEAR, NEARBY = 60, 0.4
"""Events over which a term said nearby fades away to a third, and what it counts at first."""

AROUND = 8
"""Terms that are looked for nearby, those that count most."""

FAR = 20 * NEAR
"""Events after which nothing is left of that."""

FADED = tuple(math.exp(-away / NEAR) for away in range(FAR))
"""What is left after so many events."""

NEVER = 2**40
"""A version that is far from all there are."""

REFINED = 48
"""Of the messages that match best by themselves, so many are looked at with what was said around them."""

RARE, SEVERAL = 0.05, 3
"""The share of a thread's messages that may have a term, or how many, for it to count as rare."""

EARLIER = 10
"""The rank from which on it matters little in a fusion of rankings how far behind a message is."""


class Candidate(Struct, frozen=True, gc=False):
    """A message that has some of the terms, as a set of bits. `length` is in words."""

    thread_id: ThreadId
    version: Version
    length: int
    terms: int


class Matches(Struct, frozen=True):
    """What a store found: how many messages there are, how long on average, and how many have each of the terms.

    In a very long thread these are estimates, and candidates only those that have one of the rarer terms.
    """

    messages: float
    length: float
    counts: tuple[float, ...]
    candidates: Sequence[Candidate]


class Hit(Struct, frozen=True, gc=False):
    """A message, in the thread that has it itself, and how much it has to do with what was asked.

    If they are at hand, `signs` are of its words, and `who` said it; see `domain.recall.word_index`. `rare`: it has
    a term itself that few messages of the thread have. `worth` is what each of the terms counts in the thread.
    """

    thread_id: ThreadId
    version: Version
    score: float
    signs: str = ""
    who: str = ""
    rare: bool = True
    worth: Sequence[float] = ()


def weights(matches: Matches, terms: Sequence[Term]) -> Sequence[float]:
    """Return what each term counts: the rarer it is in the thread, the more."""
    return [
        term.weight * math.log1p((max(matches.messages - count, 0) + 0.5) / (count + 0.5))
        for term, count in zip(terms, matches.counts, strict=True)
    ]


def rank(matches: Matches, terms: Sequence[Term], limit: int) -> Sequence[Hit]:
    """Return the messages that have most to do with the terms, the best first; of equals, the newest."""
    if not _is_known(matches, terms):
        return []
    worth = weights(matches, terms)
    candidates = sorted(matches.candidates, key=attrgetter("version"), reverse=True)
    totals: dict[int, float] = {}  # many messages have the same terms
    for bits in {candidate.terms for candidate in candidates}:
        totals[bits] = sum(each for number, each in enumerate(worth) if bits >> number & 1) * (1 + SATURATION)
    short, long = 1 + SATURATION * (1 - BY_LENGTH), SATURATION * BY_LENGTH / max(matches.length, 1)
    own = [totals[candidate.terms] / (short + long * candidate.length) for candidate in candidates]
    best = sorted(range(len(candidates)), key=own.__getitem__, reverse=True)[:REFINED]
    around = _around(candidates, [candidates[place] for place in best], worth)
    scores = sorted([(own[place] + more, -place) for place, more in zip(best, around, strict=True)], reverse=True)
    most = max(RARE * matches.messages, SEVERAL)
    rare = sum(1 << number for number, count in enumerate(matches.counts) if count <= most)
    return [
        Hit((c := candidates[-place]).thread_id, c.version, score, rare=bool(c.terms & rare), worth=worth)
        for score, place in scores[:limit]
    ]


def score_of(texts: Iterable[str], terms: Sequence[Term], worth: Sequence[float]) -> float:
    """Return about the score of the best of some messages that were said one after the other."""
    having = [{number for _, _, number in places(text, terms)} for text in texts]
    said = sum(worth[number] for number in frozenset().union(*having))
    own = max((sum(worth[number] for number in terms_) for terms_ in having), default=0.0)
    return own + NEARBY * (said - own)


def _is_known(matches: Matches, terms: Sequence[Term]) -> bool:
    """Say whether any of a question's own terms was said. If none was, what was spoken of before it proves nothing."""
    own = [number for number, term in enumerate(terms) if term.own]
    if not own or any(matches.counts[number] for number in own):
        return True
    bits = sum(1 << number for number in own)  # counts may be estimates
    return any(candidate.terms & bits for candidate in matches.candidates)


def _around(candidates: Sequence[Candidate], best: Sequence[Candidate], worth: Sequence[float]) -> Sequence[float]:
    """Return what terms add to the best candidates that have them not, but some near them have.

    These are the terms that count most among those that were said.
    """
    said: list[list[int]] = [[-FAR] for _ in worth]
    having: dict[int, list[Callable[[int], None]]] = {}
    for candidate in reversed(candidates):  # so that versions ascend
        if (terms := candidate.terms) not in having:
            having[terms] = [versions.append for number, versions in enumerate(said) if terms >> number & 1]
        for append in having[terms]:
            append(candidate.version)
    there = [number for number, versions in enumerate(said) if len(versions) > 1]
    most = sorted(there, key=lambda number: -worth[number])[:AROUND]
    looked_for = [(1 << number, worth[number] * NEARBY, [*said[number], NEVER]) for number in most]
    added = []
    for candidate in best:
        total, terms, version = 0.0, candidate.terms, candidate.version
        for bit, full, versions in looked_for:
            if not terms & bit:
                following = bisect_left(versions, version)
                away, behind = versions[following] - version, version - versions[following - 1]
                if behind < away:  # noqa: PLR1730  (this is where ranking takes its time, and `min` twice that)
                    away = behind
                if away < FAR:
                    total += full * FADED[away]
        added.append(total)
    return added


def fuse(rankings: Iterable[tuple[float, Sequence[Hit]]], limit: int) -> Sequence[Hit]:
    """Make one ranking of several, each with a weight, whose scores cannot be compared: by reciprocal rank."""
    scores: dict[tuple[ThreadId, Version], float] = {}
    found: dict[tuple[ThreadId, Version], Hit] = {}
    for weight, ranking in rankings:
        for place, hit in enumerate(ranking, 1):
            key = hit.thread_id, hit.version
            scores[key] = scores.get(key, 0.0) + weight / (EARLIER + place)
            if hit.signs or key not in found:
                found[key] = hit
    hits = [Hit(*key, score, found[key].signs, found[key].who) for key, score in scores.items()]
    return sorted(hits, key=lambda hit: (-hit.score, -hit.version))[:limit]


def rarest(counts: Sequence[float], most: float) -> Sequence[int]:
    """Choose the terms by which to look for candidates: the rarest, as long as there are not too many messages."""
    chosen: list[int] = []
    total = 0.0
    for number in sorted(range(len(counts)), key=lambda number: counts[number]):
        total += counts[number]
        if total > most and chosen:
            break
        chosen.append(number)
    return chosen
