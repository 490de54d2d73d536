"""Excerpts: the right part of older messages, within a token allowance."""

import json

from msgspec.structs import replace

from domain.ids import Version
from domain.recall.excerpts import (
    EARLIER_TERM_WEIGHT,
    EXCERPT_OVERHEAD_TOKENS,
    MAX_CHARS_PER_TOKEN,
    Excerpt,
    FoundMessage,
    excerpts,
    passage,
    query_of,
)
from domain.recall.terms import terms_of
from domain.recall.word_index import term_ids_of
from domain.thread.state import Message

LONG = json.dumps(
    [{"flight": f"HAT{n:03}", "price": n * 7, "seats": {"economy": n, "business": n % 5}} for n in range(99)]
)


def count(text: str) -> int:
    return -(-len(text) // 4)


def said(version: int, text: str, who: str = "assistant") -> FoundMessage:
    return FoundMessage(Version(version), who, text)


def cut(text: str, question: str, most: int) -> Excerpt:
    found = passage(said(1, text), terms_of(question), most, count)
    assert found
    assert found.text == text[found.start : found.start + len(found.text)]
    assert found.tokens == count(found.text) <= most
    return found


def spoken(role: str, content: str) -> Message:
    return Message(Version(1), role, content, 1)  # type: ignore[arg-type]


class TestPassages:
    def test_what_fits_is_shown_as_a_whole(self) -> None:
        found = cut("Your refund for PEP4E0 is $240.", "PEP4E0 refund", 50)
        assert (found.start, found.text) == (0, "Your refund for PEP4E0 is $240.")
        assert found.because == "matches PEP4E0, refund"

    def test_of_a_long_result_the_part_around_the_match_is_shown(self) -> None:
        assert '"HAT071", "price": 497' in cut(LONG, "How much is HAT071?", 60).text
        assert '"HAT000"' in cut(LONG, "How much is HAT000?", 60).text
        assert '"HAT098", "price": 686' in cut(LONG, "How much is HAT098?", 60).text

    def test_where_most_terms_are_together(self) -> None:
        text = "refund " + "x " * 400 + "refund of PEP4E0" + " y" * 400
        assert "refund of PEP4E0" in cut(text, "refund PEP4E0", 40).text

    def test_of_a_very_long_text_hardly_anything_is_counted(self) -> None:
        counted: list[int] = []

        def counting(text: str) -> int:
            counted.append(len(text))
            return count(text)

        text = "x" * 40_000 + " PEP4E0 " + "y" * 40_000
        found = passage(said(1, text), terms_of("PEP4E0"), 60, counting)
        assert found
        assert "PEP4E0" in found.text
        assert max(counted) <= 60 * MAX_CHARS_PER_TOKEN

    def test_without_a_match_it_is_the_beginning(self) -> None:
        found = cut("a " * 500, "refund", 40)
        assert (found.start, found.because) == (0, "means something alike")

    def test_nothing_fits_into_nothing(self) -> None:
        assert passage(said(1, "some text"), terms_of("text"), 0, count) is None
        assert passage(said(1, ""), terms_of("text"), 10, count) is None


class TestPacking:
    def test_the_best_are_taken_and_come_first(self) -> None:
        found = [said(9, "nine says refund " * 9), said(3, "three says other refund things " * 5), said(6, "six " * 90)]
        chosen = excerpts(found, terms_of("refund"), 120, count)
        assert [each.message for each in chosen] == [9, 3]
        assert sum(each.tokens + EXCERPT_OVERHEAD_TOKENS for each in chosen) <= 140

    def test_what_says_nothing_new_is_shown_once(self) -> None:
        same = "The refund for PEP4E0 is 240 dollars."
        chosen = excerpts(
            [said(1, same), said(2, same + " Yes."), said(3, "No refund for HATHAT")], terms_of("refund"), 900, count
        )
        assert [each.message for each in chosen] == [1, 3]

    def test_what_says_nothing_takes_no_room(self) -> None:
        assert excerpts([said(1, "Yes, please!"), said(2, "...")], terms_of("refund"), 900, count) == []

    def test_signs_that_are_at_hand_say_what_is_new_as_the_text_does(self) -> None:
        texts = ["The refund for PEP4E0 is 240 dollars.", "It is 240 dollars, the refund", "No refund for HATHAT"]
        at_hand = [
            FoundMessage(Version(n), "user", text, tokens=count(text), term_ids=term_ids_of(text))
            for n, text in enumerate(texts, 1)
        ]
        chosen = excerpts(at_hand, terms_of("refund"), 900, count)
        assert chosen == excerpts([replace(said, term_ids="") for said in at_hand], terms_of("refund"), 900, count)
        assert [each.message for each in chosen] == [1, 3]

    def test_without_room_there_is_nothing(self) -> None:
        assert excerpts([said(1, "refund")], terms_of("refund"), 0, count) == []


class TestQuestions:
    def test_the_newest_message_of_the_user_counts(self) -> None:
        window = [spoken("user", "old PEP4E0"), spoken("user", "What about the refund of HATHAT, Mia Li?")]
        window.append(spoken("tool", "booked"))
        assert [term.text for term in query_of(window)] == ["Mia Li", "refund", "HATHAT", "Mia", "Li"]

    def test_a_question_that_says_nothing_is_about_what_was_said_before(self) -> None:
        window = [spoken("user", "refund for PEP4E0"), spoken("assistant", "The card?"), spoken("user", "Yes, please")]
        assert [(term.text, term.weight) for term in query_of(window)] == [
            ("card", EARLIER_TERM_WEIGHT),
            ("PEP4E0", 1.5 * EARLIER_TERM_WEIGHT),
            ("refund", EARLIER_TERM_WEIGHT),
        ]

    def test_nobody_asked(self) -> None:
        assert query_of([]) == ()
        assert query_of([spoken("assistant", "Hello refund")]) == ()
