"""What a model is told to remember by, and what is made of its answer."""

import hypothesis.strategies as st
from hypothesis import given

from domain.chat import ToolCall
from domain.ids import Version
from domain.memory import Memory, ask_to_remember, fitted, read_memory, written
from domain.state import Message
from tests.property.test_context import words

SAID = (
    Message(Version(2), "user", "My name is Mia Li.\nI want to fly.", 9),
    Message(Version(5), "assistant", None, 3, (ToolCall("1", "find", {"to": "SEA"}),)),
    Message(Version(7), "tool", "HAT136, $214", 2, call_id="1", name="find"),
)


def test_a_model_is_told_the_memory_and_who_said_what_since() -> None:
    text = ask_to_remember("Facts:\n- likes trains", SAID, 1_000, words)
    assert text.startswith("The memory so far:\nFacts:\n- likes trains\n\nWhat was said since:\n")
    assert "user: My name is Mia Li. I want to fly.\n" in text
    assert 'assistant:  [asks for find({"to":"SEA"})]' in text
    assert text.endswith("find: HAT136, $214")


def test_long_messages_are_cut_until_all_of_them_fit() -> None:
    many = [Message(Version(n + 1), "user", "word " * 300, 300) for n in range(20)]
    text = ask_to_remember("", many, 600, words)
    assert words(text) <= 600
    assert text.count("user: word") == 20


def test_an_answer_is_read_leniently() -> None:
    answer = 'Sure! Here it is:\n```json\n{"facts": ["Mia Li", 5, {"a": 1}], "decisions": "none yet", "x": []}\n```'
    assert read_memory(answer) == Memory(facts=("Mia Li", "5", '{"a":1}'), decisions=("none yet",))
    for useless in ("", "I cannot", "{", '{"facts": []}', '["facts"]', '{"facts": [""]}', "}{"):
        assert read_memory(useless) is None, useless


def test_a_memory_is_written_under_headings() -> None:
    memory = Memory(("Mia Li", "wants SEA"), (), ("Which day?",), ("find: HAT136",))
    text = written(memory)
    assert text == "Facts:\n- Mia Li\n- wants SEA\nOpen questions:\n- Which day?\nWhat tools did:\n- find: HAT136"


sentences = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), max_size=12).map(tuple)


@given(st.builds(Memory, sentences, sentences, sentences, sentences), st.integers(0, 60))
def test_a_memory_fits_into_its_room_and_says_nothing_new(memory: Memory, room: int) -> None:
    text = fitted(memory, room, words)
    assert words(text) <= room
    assert text in {"", written(memory)} or len(text) < len(written(memory))


@given(st.text())
def test_no_answer_is_too_strange_to_be_read(answer: str) -> None:
    found = read_memory(answer)
    assert found is None or written(found)
