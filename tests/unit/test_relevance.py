"""Ranking: which messages are most relevant to a question."""

from uuid import UUID

from domain.ids import ThreadId, Version
from domain.recall.bm25 import Candidate, Hit, Matches, fuse, rank, rarest
from domain.recall.terms import Term

THREAD = ThreadId(UUID(int=1))


def candidate(version: int, *numbers: int, length: int = 10) -> Candidate:
    return Candidate(THREAD, Version(version), length, sum(1 << number for number in numbers))


def ranked(candidates: list[Candidate], counts: tuple[float, ...], messages: int = 100) -> list[int]:
    terms = [Term(str(number), ((str(number),),)) for number in range(len(counts))]
    return [hit.version for hit in rank(Matches(messages, 10, counts, candidates), terms, 10)]


class TestRanking:
    def test_rare_terms_weigh_more(self) -> None:
        assert ranked([candidate(1, 0), candidate(2, 1)], (50, 1)) == [2, 1]

    def test_two_terms_are_better_than_one_and_of_equals_the_newest_comes_first(self) -> None:
        assert ranked([candidate(1, 0), candidate(2, 0, 1), candidate(3, 0)], (3, 1)) == [2, 3, 1]

    def test_what_was_said_nearby_counts_in_part(self) -> None:
        here, far = candidate(100, 0), candidate(900, 0)
        assert ranked([here, candidate(104, 1), far], (10, 10)) == [104, 100, 900]

    def test_only_so_many_are_returned(self) -> None:
        assert len(ranked([candidate(n, 0) for n in range(1, 50)], (49,))) == 10

    def test_a_term_in_all_messages_is_no_reason_for_an_error(self) -> None:
        assert ranked([candidate(1, 0), candidate(2, 0)], (2.0,), messages=1) == [2, 1]

    def test_a_question_of_unknown_words_finds_nothing_whatever_was_spoken_of_before(self) -> None:
        own, before = Term("x", (("x",),)), Term("y", (("y",),), own=False)
        said_before = candidate(1, 1)
        assert rank(Matches(100, 10, (0, 5), [said_before]), [own, before], 10) == []
        assert [hit.version for hit in rank(Matches(100, 10, (0, 5), [said_before]), [before, before], 10)] == [1]
        estimated = candidate(2, 0)
        assert rank(Matches(100, 10, (0, 5), [estimated, said_before]), [own, before], 10)[0].version == 2

    def test_candidates_are_looked_for_by_the_rarest_terms(self) -> None:
        assert rarest((500, 3, 900, 0), 600) == [3, 1, 0]
        assert rarest((5000, 9000), 600) == [0]


def test_rankings_are_fused_by_rank_and_not_by_score() -> None:
    first = [Hit(THREAD, Version(1), 1000.0), Hit(THREAD, Version(2), 1.0)]
    second = [Hit(THREAD, Version(2), 0.9), Hit(THREAD, Version(3), 0.8)]
    assert [hit.version for hit in fuse([(1, first), (1, second)], 5)] == [2, 1, 3]
    assert [hit.version for hit in fuse([(1, first), (0.01, second)], 2)] == [1, 2]
    assert fuse([], 5) == []
