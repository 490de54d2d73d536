"""What a question looks for, and which messages have most to do with it."""

import time
from uuid import UUID

import pytest

from domain.ids import ThreadId, Version
from domain.relevance import (
    IN_A_ROW,
    LONGEST,
    Candidate,
    Hit,
    Matches,
    Term,
    fuse,
    places,
    rank,
    rarest,
    stem,
    terms_of,
    words_of,
)

THREAD = ThreadId(UUID(int=1))


def names(text: str) -> list[str]:
    return [term.text for term in terms_of(text)]


def found(text: str, *terms: Term) -> set[int]:
    return {number for _, _, number in places(text, terms)}


def candidate(version: int, *numbers: int, length: int = 10) -> Candidate:
    return Candidate(THREAD, Version(version), length, sum(1 << number for number in numbers))


def ranked(candidates: list[Candidate], counts: tuple[float, ...], messages: int = 100) -> list[int]:
    terms = [Term(str(number), (str(number),)) for number in range(len(counts))]
    return [hit.version for hit in rank(Matches(messages, 10, counts, candidates), terms, 10)]


class TestTerms:
    def test_words_that_say_nothing_are_left_out(self) -> None:
        assert names("Could you please tell me about the refund?") == ["refund"]
        assert names("What is it?") == []

    def test_codes_amounts_and_paths_stay_as_they_stand(self) -> None:
        assert names("PEP4E0: credit_card_4421486, $1,234.50!") == ["PEP4E0", "credit_card_4421486", "1,234.50"]
        (amount,) = terms_of("$1,234.50")
        assert amount.forms == ("1,234.50", "1234.50")

    def test_names_are_looked_for_as_a_whole_and_in_parts(self) -> None:
        assert names("from New York to Seattle") == ["New York", "New", "York", "Seattle"]
        assert "May I" not in names("May I ask Mia Li?")

    @pytest.mark.parametrize("text", ["on May 20", "on May 20th", "on 20 May", "on 2024-05-20"])
    def test_dates_are_found_however_they_are_written(self, text: str) -> None:
        terms = terms_of(text)
        for written in ("May 20", "May 20th, 2024", "2024-05-20") if "2024" not in text else ("May 20", text):
            assert found(f"It leaves {written}.", *terms), written
        assert not found("It leaves 2024-05-21, May 2", *terms)

    @pytest.mark.parametrize("text", ["a" * 200_000, "1," * 100_000, "a." * 100_000 + "1", '{"id":"A-1"},' * 20_000])
    def test_no_text_takes_long_and_no_term_is_a_whole_text(self, text: str) -> None:
        begun = time.process_time()  # not by the clock: others take the processor, too
        terms = terms_of(text)
        assert time.process_time() - begun < 1
        assert all(len(term.text) <= LONGEST and len(words_of(term.text)) <= IN_A_ROW for term in terms)

    def test_a_code_has_a_digit_of_its_own(self) -> None:
        assert [(term.text, term.weight) for term in terms_of("refund(42) v1.2/x")] == [
            ("42", 1.5),
            ("v1.2/x", 1.5),
            ("refund", 1.0),
        ]

    def test_there_are_not_too_many(self) -> None:
        assert len(terms_of(" ".join(f"word{n}" for n in range(100)))) == 20


class TestPlaces:
    def test_words_of_one_root_are_alike_and_codes_are_not(self) -> None:
        assert stem("reservations") == stem("reserved") == stem("Reservation")
        assert stem("HAT069") == "hat069"
        assert stem("bus") == "bus"

    def test_where_terms_are(self) -> None:
        text = "Your refund for PEP4E0 was refunded."
        at = places(text, terms_of("refund PEP4E0"))
        assert [text[start:end] for start, end, _ in at] == ["refund", "PEP4E0", "refunded"]

    def test_a_row_of_words_must_stand_in_a_row(self) -> None:
        (term,) = terms_of("credit_card_44")
        assert found('{"id": "credit_card_44"}', term)
        assert not found("credit card 45, 44", term)


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

    def test_candidates_are_looked_for_by_the_rarest_terms(self) -> None:
        assert rarest((500, 3, 900, 0), 600) == [3, 1, 0]
        assert rarest((5000, 9000), 600) == [0]


def test_rankings_are_fused_by_rank_and_not_by_score() -> None:
    first = [Hit(THREAD, Version(1), 1000.0), Hit(THREAD, Version(2), 1.0)]
    second = [Hit(THREAD, Version(2), 0.9), Hit(THREAD, Version(3), 0.8)]
    assert [hit.version for hit in fuse([(1, first), (1, second)], 5)] == [2, 1, 3]
    assert [hit.version for hit in fuse([(1, first), (0.01, second)], 2)] == [1, 2]
    assert fuse([], 5) == []
