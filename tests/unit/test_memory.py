"""Summaries by a model: the request, and how the answer is parsed."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from domain.errors import PromptTooLarge
from domain.ids import Version
from domain.models.chat import ToolCall
from domain.prompt.compaction import remembered
from domain.prompt.summary import (
    MAX_CHARS_PER_TOKEN,
    SummaryContent,
    fitted_text,
    parse_summary,
    parse_written,
    summary_request,
    summary_text,
)
from domain.thread.state import Message
from infrastructure.models.offline.extract import extracted
from tests.property.test_context import words

SAID = (
    Message(Version(2), "user", "My name is Mia Li.\nI want to fly.", 9),
    Message(Version(5), "assistant", None, 3, (ToolCall("1", "find", {"to": "SEA"}),)),
    Message(Version(7), "tool", "HAT136, $214", 2, call_id="1", name="find"),
)


def test_a_model_is_told_the_memory_and_who_said_what_since() -> None:
    text, told = summary_request("Facts:\n- likes trains", SAID, 1_000, words)
    assert told == SAID
    assert text.startswith("The memory so far:\nFacts:\n- likes trains\n\nWhat was said since:\n")
    assert "user: My name is Mia Li. I want to fly.\n" in text
    assert 'assistant:  [asks for find({"to":"SEA"})]' in text
    assert text.endswith("find: HAT136, $214")


def test_long_messages_are_cut_until_all_of_them_fit() -> None:
    many = [Message(Version(n + 1), "user", "word " * 300, 300) for n in range(20)]
    text, told = summary_request("", many, 600, words)
    assert words(text) <= 600
    assert text.count("user: word") == len(told) == 20


@pytest.mark.parametrize("room", [20, 100, 500, 2_000, 3_000])
def test_a_small_model_is_told_of_the_oldest_messages_only(room: int) -> None:
    many = [Message(Version(n), "user", "a few short words here now", 6) for n in range(1, 400)]
    text, told = summary_request("Facts:\n- likes trains", many, room, words)
    assert words(text) <= room
    assert list(told) == many[: len(told)]
    assert told == many or words(text) + 7 > room
    assert text.count("user: ") == len(told) > 0


def test_what_belongs_together_is_told_together_or_not_at_all() -> None:
    text, told = summary_request("", SAID, 24, words)
    assert list(told) == [SAID[0]]
    assert "HAT136" not in text


def test_a_model_that_is_too_small_for_the_oldest_message_is_not_asked() -> None:
    with pytest.raises(PromptTooLarge, match="10 are allowed"):
        summary_request("", SAID, 10, words)


def test_an_answer_is_read_leniently() -> None:
    answer = 'Sure! Here it is:\n```json\n{"facts": ["Mia Li", 5, {"a": 1}], "decisions": "none yet", "x": []}\n```'
    assert parse_summary(answer) == SummaryContent(facts=("Mia Li", "5", '{"a":1}'), decisions=("none yet",))
    for useless in ("", "I cannot", "{", '{"facts": []}', '["facts"]', '{"facts": [""]}', "}{"):
        assert parse_summary(useless) is None, useless


def test_an_answer_that_nobody_could_read_is_none() -> None:
    deep = 5_000
    assert parse_summary('{"facts": [' + "[" * deep + "]" * deep + "]}") is None
    assert parse_summary('{"facts": ' + '{"a":' * deep + "1" + "}" * deep + "}") is None
    assert parse_summary('{"facts": ["a\\ud800"]}') is None
    assert parse_summary('{"facts": ["' + "word " * 100_000 + '"]}') is None
    assert parse_summary('{"facts": ["a\ud800", "b\\u0000"]}') == SummaryContent(facts=("a\ufffd", "b\ufffd"))


def test_one_long_sentence_does_not_wipe_out_the_others() -> None:
    memory = SummaryContent(("the user is Mia", "word " * 5_000), ("agreed",))
    text = fitted_text(memory, 60, words)
    assert "the user is Mia" in text
    assert "agreed" in text
    assert words(text) <= 60


def test_a_long_memory_is_not_counted_as_a_whole() -> None:
    counted: list[int] = []

    def counting(text: str) -> int:
        counted.append(len(text))
        return words(text)

    assert fitted_text(SummaryContent(tuple(f"fact {n}" for n in range(20_000))), 100, counting).endswith("fact 19999")
    assert max(counted) <= 100 * MAX_CHARS_PER_TOKEN


def test_a_memory_of_which_nothing_fits_is_no_summary() -> None:
    assert remembered(SAID, SummaryContent(("Mia Li",)), "small", 10, words) is None


def test_an_extract_is_read_as_facts() -> None:
    extract = "user: my code is PEP4E0\nassistant: noted"
    assert parse_written(extract) == SummaryContent(facts=("user: my code is PEP4E0", "assistant: noted"))
    told, _ = summary_request(extract, SAID, 1_000, words)
    assert "PEP4E0" in extracted(told)
    memory = SummaryContent(("Mia Li",), ("agreed",), (), ("find: HAT136",))
    assert parse_written(summary_text(memory)) == memory


def test_a_memory_is_written_under_headings() -> None:
    memory = SummaryContent(("Mia Li", "wants SEA"), (), ("Which day?",), ("find: HAT136",))
    text = summary_text(memory)
    assert text == "Facts:\n- Mia Li\n- wants SEA\nOpen questions:\n- Which day?\nWhat tools did:\n- find: HAT136"


sentences = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=12).map(tuple)


@given(st.builds(SummaryContent, sentences, sentences, sentences, sentences), st.integers(0, 60))
def test_a_memory_fits_into_its_room_and_says_nothing_new(memory: SummaryContent, room: int) -> None:
    text = fitted_text(memory, room, words)
    assert words(text) <= room
    assert text in {"", summary_text(memory)} or len(text) < len(summary_text(memory))


@given(st.text())
def test_no_answer_is_too_strange_to_be_read(answer: str) -> None:
    found = parse_summary(answer)
    assert found is None or summary_text(found)
