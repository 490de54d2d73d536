"""Ranks messages by relevance to a query: Okapi BM25 plus the terms of nearby messages. Pure functions over counts.

Each store reports which terms a message has, and how many messages have each term. The score is computed here, so all
stores rank alike. Document frequencies are those of the one thread: in a thread about flights, a booking code weighs
many times what "flight" does. Terms of messages shortly before or after count in part: a question names the trip, and
the answer is in a tool's result that names only its code.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import attrgetter

from msgspec import Struct

from domain.ids import ThreadId, Version
from domain.recall.terms import Term, occurrences

K1, B = 1.2, 0.05
"""BM25's k1 and b. b is small because tool results are long and mostly hold the answer; `excerpts` chooses the part."""

FADE_EVENTS, NEARBY_WEIGHT = 60, 0.4
"""A term of a nearby message counts `NEARBY_WEIGHT`, and 1/e of that after `FADE_EVENTS` events."""

MAX_NEARBY_TERMS = 8
"""Terms that count in nearby messages: those with the highest weights."""

MAX_DISTANCE_EVENTS = 20 * FADE_EVENTS
"""Events after which a nearby term counts nothing."""

DECAY = tuple(math.exp(-away / FADE_EVENTS) for away in range(MAX_DISTANCE_EVENTS))
"""The share of a nearby term's weight that is left, by distance in events."""

_NO_VERSION = 2**40
"""Farther than `MAX_DISTANCE_EVENTS` from every version."""

MAX_REFINED = 48
"""Messages with the best scores of their own whose nearby messages are considered."""

RARE_SHARE, RARE_COUNT = 0.05, 3
"""A term is rare if at most this share of the thread's messages, or this many messages, have it."""

FUSION_OFFSET = 10
"""The constant k of reciprocal rank fusion: the higher it is, the less ranks matter."""


class Candidate(Struct, frozen=True, gc=False):
    """A message that has some of the terms, given as a bit set. `length` is in words."""

    thread_id: ThreadId
    version: Version
    length: int
    terms: int


class Matches(Struct, frozen=True):
    """What a store found: the number of messages, their mean length, and how many have each term.

    In a very long thread these are estimates, and only messages with one of the rarer terms are candidates.
    """

    messages: float
    length: float
    counts: tuple[float, ...]
    candidates: Sequence[Candidate]


class Hit(Struct, frozen=True, gc=False):
    """A message, in the thread that owns it, and its score.

    `term_ids` of its words and `who`, a role or a tool, are set if the store has them: see `word_index`.
    `rare`: it has a rare term itself. `weights` are the weights of the query's terms in the thread.
    """

    thread_id: ThreadId
    version: Version
    score: float
    term_ids: str = ""
    who: str = ""
    rare: bool = True
    weights: Sequence[float] = ()


def term_weights(matches: Matches, terms: Sequence[Term]) -> Sequence[float]:
    """Return the weight of each term: its own, times its inverse document frequency in the thread."""
    return [
        term.weight * math.log1p((max(matches.messages - count, 0) + 0.5) / (count + 0.5))
        for term, count in zip(terms, matches.counts, strict=True)
    ]


def rank(matches: Matches, terms: Sequence[Term], limit: int) -> Sequence[Hit]:
    """Return the messages with the highest scores, the best first; of equals, the newest."""
    if not _has_own_term(matches, terms):
        return []
    weights = term_weights(matches, terms)
    candidates = sorted(matches.candidates, key=attrgetter("version"), reverse=True)
    totals: dict[int, float] = {}  # many messages have the same terms, so each set of terms is summed once
    for bits in {candidate.terms for candidate in candidates}:
        totals[bits] = sum(each for number, each in enumerate(weights) if bits >> number & 1) * (1 + K1)
    short, long = 1 + K1 * (1 - B), K1 * B / max(matches.length, 1)
    own = [totals[candidate.terms] / (short + long * candidate.length) for candidate in candidates]
    best = sorted(range(len(candidates)), key=own.__getitem__, reverse=True)[:MAX_REFINED]
    nearby = _nearby_scores(candidates, [candidates[place] for place in best], weights)
    scores = sorted([(own[place] + more, -place) for place, more in zip(best, nearby, strict=True)], reverse=True)
    rare_count = max(RARE_SHARE * matches.messages, RARE_COUNT)
    rare = sum(1 << number for number, count in enumerate(matches.counts) if count <= rare_count)
    return [
        Hit((c := candidates[-place]).thread_id, c.version, score, rare=bool(c.terms & rare), weights=weights)
        for score, place in scores[:limit]
    ]


def score_of(texts: Iterable[str], terms: Sequence[Term], weights: Sequence[float]) -> float:
    """Estimate the score of the best of some consecutive messages."""
    found = [{number for _, _, number in occurrences(text, terms)} for text in texts]
    anywhere = sum(weights[number] for number in frozenset().union(*found))
    own = max((sum(weights[number] for number in numbers) for numbers in found), default=0.0)
    return own + NEARBY_WEIGHT * (anywhere - own)


def _has_own_term(matches: Matches, terms: Sequence[Term]) -> bool:
    """Say whether any message has one of the question's own terms. Terms of earlier messages alone prove nothing."""
    own = [number for number, term in enumerate(terms) if term.own]
    if not own or any(matches.counts[number] for number in own):
        return True
    bits = sum(1 << number for number in own)  # the counts may be estimates
    return any(candidate.terms & bits for candidate in matches.candidates)


def _nearby_scores(
    candidates: Sequence[Candidate], best: Sequence[Candidate], weights: Sequence[float]
) -> Sequence[float]:
    """Return what each of the best candidates gains by terms that it lacks, but nearby candidates have.

    Only the terms with the highest weights count.
    """
    versions_of: list[list[int]] = [[-MAX_DISTANCE_EVENTS] for _ in weights]
    appends: dict[int, list[Callable[[int], None]]] = {}
    for candidate in reversed(candidates):  # so that versions ascend
        if (terms := candidate.terms) not in appends:
            appends[terms] = [versions.append for number, versions in enumerate(versions_of) if terms >> number & 1]
        for append in appends[terms]:
            append(candidate.version)
    present = [number for number, versions in enumerate(versions_of) if len(versions) > 1]
    heaviest = sorted(present, key=lambda number: -weights[number])[:MAX_NEARBY_TERMS]
    heavy_terms = [
        (1 << number, weights[number] * NEARBY_WEIGHT, [*versions_of[number], _NO_VERSION]) for number in heaviest
    ]
    added = []
    for candidate in best:
        total, terms, version = 0.0, candidate.terms, candidate.version
        for bit, weight, versions in heavy_terms:
            if not terms & bit:
                following = bisect_left(versions, version)
                distance, behind = versions[following] - version, version - versions[following - 1]
                if behind < distance:  # noqa: PLR1730  (the hot loop of ranking: `min` takes twice as long)
                    distance = behind
                if distance < MAX_DISTANCE_EVENTS:
                    total += weight * DECAY[distance]
        added.append(total)
    return added


def fuse(rankings: Iterable[tuple[float, Sequence[Hit]]], limit: int) -> Sequence[Hit]:
    """Fuse weighted rankings whose scores cannot be compared: by reciprocal rank."""
    scores: dict[tuple[ThreadId, Version], float] = {}
    found: dict[tuple[ThreadId, Version], Hit] = {}
    for weight, ranking in rankings:
        for place, hit in enumerate(ranking, 1):
            key = hit.thread_id, hit.version
            scores[key] = scores.get(key, 0.0) + weight / (FUSION_OFFSET + place)
            if hit.term_ids or key not in found:
                found[key] = hit
    hits = [Hit(*key, score, found[key].term_ids, found[key].who) for key, score in scores.items()]
    return sorted(hits, key=lambda hit: (-hit.score, -hit.version))[:limit]


def rarest(counts: Sequence[float], most: float) -> Sequence[int]:
    """Choose the terms that select candidates: the rarest ones that at most `most` messages have in all."""
    by_count = sorted(range(len(counts)), key=counts.__getitem__)
    totals = accumulate(map(counts.__getitem__, by_count))
    return by_count[: max(sum(total <= most for total in totals), 1)]
