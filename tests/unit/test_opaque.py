"""Provider-specific data is merged from the fragments of a stream, within its size limit."""

import json
import time
from typing import Any

import pytest

from domain.application.turns.provider_data import limit_provider_data
from domain.models.chat import AnswerMalformed, ChatAnswer, ToolCall
from domain.thread.size_limits import MAX_OPAQUE
from infrastructure.models.openai.answer import AnswerBuilder
from infrastructure.models.openai.completion import read_completion
from infrastructure.models.openai.provider_data import ExtraFields


def merged(*fragments: dict[str, Any]) -> dict[str, Any]:
    opaque = ExtraFields()
    for fragment in fragments:
        opaque.add(fragment)
    return opaque.build()


def test_texts_grow_objects_merge_and_of_all_else_the_last_one_counts() -> None:
    assert merged({"reasoning": "I "}, {}, {"reasoning": None}, {"reasoning": "think."}) == {"reasoning": "I think."}
    assert merged({"a": {"b": "x", "n": 1}}, {"a": {"b": "y", "n": 2, "c": True}}) == {
        "a": {"b": "xy", "n": 2, "c": True}
    }
    assert merged({"a": "text"}, {"a": 1}) == {"a": 1}


def test_labels_and_signatures_that_are_said_again_are_said_once() -> None:
    signed = {"google": {"thought_signature": "c2lnbmF0dXJl" * 4, "type": "thought"}}
    assert merged({"extra_content": signed}, {"extra_content": signed}) == {"extra_content": signed}


@pytest.mark.parametrize("numbered", [{"index": 0}, {}])
def test_entries_of_lists_go_on_by_their_number_or_until_they_are_signed(numbered: dict[str, int]) -> None:
    def entry(**more: str) -> dict[str, Any]:
        return {"blocks": [{"type": "thinking", **numbered, **more}]}

    whole = merged(entry(thinking="a"), entry(thinking="b"), entry(signature="s"))
    assert whole == {"blocks": [{"type": "thinking", **numbered, "thinking": "ab", "signature": "s"}]}


def test_entries_of_another_number_type_or_behind_a_signature_stand_alone() -> None:
    one = {"type": "text", "index": 0, "text": "a"}
    others = [{"type": "text", "index": 1, "text": "b"}, {"type": "encrypted", "index": 0, "data": "c"}]
    assert merged({"d": [one]}, *({"d": [other]} for other in others)) == {"d": [one, *others]}
    signed = {"type": "thinking", "thinking": "a", "signature": "s"}
    assert merged({"d": [signed]}, {"d": [{"type": "thinking", "thinking": "b"}]})["d"][0] == signed
    assert merged({"d": ["x"]}, {"d": ["y"]}) == {"d": ["x", "y"]}


def test_what_is_in_one_fragment_is_taken_as_it_is() -> None:
    entries = [{"type": "text", "index": 0, "text": "a"}, {"type": "text", "index": 0, "text": "b"}]
    assert merged({"d": entries}) == {"d": entries}


def test_empty_texts_stay_and_empty_lists_go() -> None:
    assert merged({"reasoning_content": "", "citations": [], "more": {}}) == {"reasoning_content": ""}


def test_what_cannot_be_stored_is_left_out_alone() -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    assert merged({"deep": deep, "big": 10**400, "nan": float("nan"), "good": "a\0\ud83d", "half": "\ud83d"}) == {
        "good": "a\ufffd\ufffd",
        "half": "\ufffd",
    }
    assert merged({"pair": "\ud83d"}, {"pair": "\ude00"}) == {"pair": "\U0001f600"}


def test_more_than_the_limit_is_dropped_whole() -> None:
    assert merged({"reasoning": "x" * MAX_OPAQUE}, {"reasoning": "y"}) == {}
    assert merged({"reasoning": "é" * (MAX_OPAQUE // 2)}) == {}
    assert merged({"reasoning": "x" * (MAX_OPAQUE - 100)}) != {}


def test_only_what_the_protocol_does_not_know_is_set_apart() -> None:
    call: dict[str, Any] = {"index": 0, "id": "a", "type": "function", "function": {}, "extra_content": 1}
    delta: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "tool_calls": [call],
        "reasoning": "y",
        "extra": 2,
    }
    answer = AnswerBuilder("m")
    answer.add(read_completion(json.dumps({"choices": [{"delta": delta}, {"message": None}, None], "usage": None})))
    assert answer.build().extra == {"reasoning": "y"}
    assert answer.build().tool_calls[0].extra == {"extra_content": 1}
    odd: Any
    for odd in (None, [], {"choices": {}}, {"choices": [1]}, {"choices": [{"delta": "x"}]}):
        with pytest.raises(AnswerMalformed):
            read_completion(json.dumps(odd))
    answer.add(read_completion(json.dumps({"choices": [{"delta": {"tool_calls": "y"}}]})))


class Words:
    def count(self, text: str) -> int:
        return len(text.split())


async def test_reasoning_that_takes_half_of_the_window_is_dropped_and_signatures_stay() -> None:
    signed = ToolCall("a", "echo", {}, extra={"signature": "s" * 400})
    answer = ChatAnswer(None, (signed,), "tool_calls", "m", extra={"reasoning": "word " * 60}, origin="here")
    whole, tokens = await limit_provider_data(answer, 1_000, Words())
    assert whole == answer
    assert 160 <= tokens <= 170
    without, tokens = await limit_provider_data(answer, 300, Words())
    assert (without.extra, without.tool_calls) == ({}, (signed,))
    assert 100 <= tokens <= 105
    nothing, tokens = await limit_provider_data(answer, 100, Words())
    assert (nothing.extra, nothing.tool_calls[0].extra, tokens) == ({}, {}, 0)
    plain = ChatAnswer("hi", (), "stop", "m")
    assert await limit_provider_data(plain, 1_000, Words()) == (plain, 0)


def test_a_list_that_comes_in_fragments_takes_no_longer_the_longer_it_is() -> None:
    begun = time.process_time()
    assert merged({"details": [{}] * 8_000}, {"details": [{}] * 7_000}) == {"details": [{}] * 15_000}
    assert merged({"details": [{}] * 14_000}, {"details": [{}] * 500_000}) == {}
    assert time.process_time() - begun < 10
