"""Ranking equals a direct implementation of its formula."""

import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import ThreadId, Version
from domain.recall.bm25 import (
    FADE_EVENTS,
    K1,
    MAX_DISTANCE_EVENTS,
    MAX_NEARBY_TERMS,
    MAX_REFINED,
    NEARBY_WEIGHT,
    B,
    Candidate,
    Matches,
    rank,
    term_weights,
)
from domain.recall.terms import Term

THREAD, TERMS = ThreadId(UUID(int=1)), 10
candidates = st.lists(
    st.builds(
        Candidate,
        st.just(THREAD),
        st.integers(1, 4_000).map(Version),
        st.integers(0, 900),
        st.integers(1, 2**TERMS - 1),
    ),
    max_size=120,
    unique_by=lambda candidate: candidate.version,
)


@given(candidates, st.lists(st.integers(0, 200), min_size=TERMS, max_size=TERMS), st.integers(1, 60))
def test_messages_are_ranked_by_the_formula(found: list[Candidate], counts: list[int], limit: int) -> None:
    terms = [Term(str(number), ((str(number),),), 1 + number / 7) for number in range(TERMS)]
    matches = Matches(200, 40.0, tuple(map(float, counts)), found)
    worth = term_weights(matches, terms)
    have = [number for number in range(TERMS) if any(c.terms >> number & 1 for c in found)]
    looked_for = sorted(have, key=lambda number: -worth[number])[:MAX_NEARBY_TERMS]

    def own(candidate: Candidate) -> float:
        total = sum(worth[number] for number in range(TERMS) if candidate.terms >> number & 1)
        return total * (1 + K1) / (1 + K1 * (1 - B + B * candidate.length / 40))

    def around(candidate: Candidate) -> float:
        total = 0.0
        for number in looked_for:
            if not candidate.terms >> number & 1:
                away = min(abs(c.version - candidate.version) for c in found if c.terms >> number & 1)
                total += (
                    worth[number] * NEARBY_WEIGHT * math.exp(-away / FADE_EVENTS) if away < MAX_DISTANCE_EVENTS else 0
                )
        return total

    best = sorted(found, key=lambda c: (-round(own(c), 9), -c.version))[:MAX_REFINED]
    expected = sorted((-round(own(c) + around(c), 9), -c.version) for c in best)
    hits = rank(matches, terms, limit)
    assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in expected][:limit])
    assert hits == sorted(hits, key=lambda hit: (-hit.score, -hit.version))
