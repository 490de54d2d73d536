"""Query terms: what a question looks for, and where it occurs in a text."""

import time

import pytest

from domain.recall.stemming import MAX_WORD_CHARS, stem
from domain.recall.terms import MAX_PHRASE_WORDS, Term, occurrences, terms_of
from domain.recall.tokenizer import words_of


def names(text: str) -> list[str]:
    return [term.text for term in terms_of(text)]


def found(text: str, *terms: Term) -> set[int]:
    return {number for _, _, number in occurrences(text, terms)}


class TestTerms:
    def test_words_that_say_nothing_are_left_out(self) -> None:
        assert names("Could you please tell me about the refund?") == ["refund"]
        assert names("What is it?") == []

    def test_codes_amounts_and_paths_stay_as_they_stand(self) -> None:
        assert names("PEP4E0: credit_card_4421486, $1,234.50!") == ["PEP4E0", "credit_card_4421486", "1,234.50"]
        (amount,) = terms_of("$1,234.50")
        assert amount.forms == (("1", "234", "50"), ("1234", "50"))

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
        assert all(len(term.text) <= MAX_WORD_CHARS and len(words_of(term.text)) <= MAX_PHRASE_WORDS for term in terms)

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
        assert stem("reservations") == stem("reserved") == stem("reservation")
        assert stem("hat069") == "hat069"
        assert stem("bus") == "bus"

    def test_where_terms_are(self) -> None:
        text = "Your refund for PEP4E0 was refunded."
        at = occurrences(text, terms_of("refund PEP4E0"))
        assert [text[start:end] for start, end, _ in at] == ["refund", "PEP4E0", "refunded"]

    def test_a_row_of_words_must_stand_in_a_row(self) -> None:
        (term,) = terms_of("credit_card_44")
        assert found('{"id": "credit_card_44"}', term)
        assert not found("credit card 45, 44", term)
