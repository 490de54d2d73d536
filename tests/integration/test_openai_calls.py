"""Tool calls as endpoints really send them: each call is told from the others, and none takes the others with it."""

import json
import time
from typing import Any

import pytest

from domain.models.chat import AnswerTooLarge, ToolCall
from tests.fakes.openai_server import Pause, chunk, completion, events
from tests.support.openai import call, calls, streamed, whole

A, B = ToolCall("a", "echo", {"text": "a"}), ToolCall("b", "store", {"data": {}})

FRAGMENTS: dict[str, list[Any]] = {
    "a tail under another index": [
        calls(call("echo", '{"text": "a"}', index=0, id="a")),
        calls(call("store", '{"da', index=0, id="b")),
        calls(call(None, 'ta": {}}', index=1)),
    ],
    "no index but ids, interleaved": [
        calls(call("echo", "", id="a"), call("store", "", id="b")),
        calls(call(None, '{"text": ', id="a"), call(None, '{"data": ', id="b")),
        calls(call(None, '"a"}', id="a"), call(None, "{}}", id="b")),
    ],
    "whole calls without an index": [
        calls(call("echo", '{"text": "a"}', id="a"), call("store", '{"data": {}}', id="b")),
    ],
    "the index as a text": [
        calls(call("echo", '{"text"', index="0", id="a")),
        calls(call("store", '{"data"', index="1", id="b")),
        calls(call(None, ': "a"}', index="0"), call(None, ": {}}", index="1")),
    ],
    "the index as a fraction": [
        calls(call("echo", '{"text"', index=0.0, id="a"), call("store", '{"data": {}}', index=1.0, id="b")),
        calls(call(None, ': "a"}', index=0.0)),
    ],
    "indices that begin anywhere": [
        calls(call("echo", '{"text": "a"}', index=3, id="a")),
        calls(call("store", '{"data": {}}', index=7, id="b")),
    ],
    "the id in every fragment": [
        calls(call("echo", '{"text"', index=0, id="a")),
        calls(call("", ': "a"}', index=0, id="a")),
        calls(call("store", '{"data": {}}', index=1, id="b")),
    ],
    "the whole call again each time": [
        calls(call("echo", '{"text": "a"}', index=0, id="a")),
        calls(call("echo", '{"text": "a"}', index=0, id="a"), call("store", '{"data": {}}', index=1, id="b")),
    ],
    "a name in pieces": [
        calls(call("ec", "", index=0, id="a")),
        calls(call("ho", '{"text": "a"}', index=0)),
        calls(call("store", '{"data": {}}', index=1, id="b")),
    ],
    "the name after the arguments": [
        calls(call(None, '{"text":', index=0, id="a")),
        calls(call("echo", ' "a"}', index=0)),
        calls(call("store", '{"data": {}}', index=1, id="b")),
    ],
    "arguments as objects": [
        calls(call("echo", {"text": "a"}, index=0, id="a"), call("store", {"data": {}}, index=1, id="b")),
    ],
    "an object instead of a list": [
        chunk(None, tool_calls=call("echo", '{"text": "a"}', index=0, id="a")),
        chunk(None, tool_calls=call("store", '{"data": {}}', index=1, id="b")),
    ],
    "a placeholder first": [
        calls({"index": 0, "id": "", "function": {"name": "", "arguments": ""}}),
        calls(call("echo", '{"text": "a"}', index=0, id="a"), call("store", '{"data": {}}', index=1, id="b")),
    ],
    "custom calls": [
        calls({"index": 0, "id": "a", "type": "custom", "custom": {"name": "echo", "input": '{"text": "a"}'}}),
        calls(call("store", '{"data": {}}', index=1, id="b")),
    ],
    "text beside them": [
        chunk("Just a moment."),
        calls(call("echo", '{"text": "a"}', index=0, id="a"), call("store", '{"data": {}}', index=1, id="b")),
    ],
}


@pytest.mark.parametrize("parts", FRAGMENTS.values(), ids=FRAGMENTS)
async def test_calls_are_put_together(parts: list[Any]) -> None:
    answer = await streamed(events(chunk("", role="assistant"), *parts, chunk(finish="tool_calls"), "[DONE]"))
    assert answer.tool_calls == (A, B)


async def test_a_call_that_comes_long_after_a_reason_to_stop_is_one_too() -> None:
    first = chunk(None, tool_calls=[call("echo", '{"text": "a"}', index=0, id="a")], finish="tool_calls")
    second = chunk(None, tool_calls=[call("store", '{"data": {}}', index=1, id="b")], finish="tool_calls")
    assert (await streamed(events(first, Pause(1.5), second, "[DONE]"))).tool_calls == (A, B)


async def test_one_id_for_two_calls_makes_two_calls() -> None:
    parts = [calls(call("echo", '{"text": "a"}', index=0, id="a"), call("store", "", index=1, id="a"))]
    answer = await streamed(events(*parts, calls(call(None, '{"data": {}}', index=1)), "[DONE]"))
    assert [(one.id, one.name, one.arguments) for one in answer.tool_calls] == [
        ("a", "echo", {"text": "a"}),
        ("a", "store", {"data": {}}),
    ]
    same = [call("echo", '{"text": "a"}', id="a"), call("echo", '{"text": "b"}', id="a")]
    assert [one.arguments for one in (await streamed(events(calls(*same), "[DONE]"))).tool_calls] == [
        {"text": "a"},
        {"text": "b"},
    ]


async def test_equal_calls_of_a_whole_answer_are_two() -> None:
    answer = await whole(completion(None, [call("roll", "{}", id="a"), call("roll", "{}", id="a")]))
    assert len(answer.tool_calls) == 2


@pytest.mark.parametrize("streaming", [True, False])
async def test_the_old_way_to_call_a_function_is_understood(streaming: bool) -> None:  # noqa: FBT001
    function = {"name": "echo", "arguments": '{"text": "a"}'}
    if streaming:
        begun = chunk(None, function_call={"name": "echo", "arguments": ""})
        pieces = [chunk(None, function_call={"arguments": piece}) for piece in ('{"text":', ' "a"}')]
        answer = await streamed(events(begun, *pieces, chunk(finish="function_call"), "[DONE]"))
    else:
        answer = await whole(completion(choices=[{"message": {"content": None, "function_call": function}}]))
    assert answer.tool_calls == (ToolCall("call_1", "echo", {"text": "a"}),)


@pytest.mark.parametrize(
    ("written", "fault"),
    [('{"text": "abc', "it ends before this string does"), ('{"text": NaN}', "NaN is not JSON"), ("[1]", "an array")],
)
async def test_what_cannot_be_read_leaves_the_other_calls_alone(written: str, fault: str) -> None:
    parts = calls(call("echo", written, index=0, id="a"), call("store", '{"data": {}}', index=1, id="b"))
    answer = await streamed(events(parts, chunk(finish="tool_calls"), "[DONE]"))
    faulty, good = answer.tool_calls
    assert (faulty.id, faulty.name, faulty.arguments, faulty.written) == ("a", "echo", {}, written)
    assert fault in faulty.fault
    assert good == B


async def test_arguments_of_other_types_are_read_as_if_they_were_written() -> None:
    given = [[], [1], 7, False, "null", {"data": {}}]
    answer = await whole(completion(None, [call("store", arguments, id=str(n)) for n, arguments in enumerate(given)]))
    assert [one.arguments for one in answer.tool_calls] == [{}, {}, {}, {}, {}, {"data": {}}]
    assert [bool(one.fault) for one in answer.tool_calls] == [False, True, True, True, False, False]


async def test_only_the_last_call_of_an_answer_that_is_broken_off_may_be_cut() -> None:
    parts = calls(call("now", "", index=0, id="a"), call("now", "", index=1, id="b"))
    answer = await streamed(events(parts, chunk(finish="length"), "[DONE]"))
    assert [one.fault for one in answer.tool_calls] == [
        "",
        "The answer was broken off before this call had any arguments.",
    ]


@pytest.mark.parametrize("odd", [{"index": 0, "id": "a", "function": None}, "echo", 7, {"function": "echo"}])
async def test_what_is_no_call_is_reported_as_one_without_a_name(odd: Any) -> None:
    answer = await streamed(events(calls(odd, call("store", '{"data": {}}', index=1, id="b")), "[DONE]"))
    assert [one.name for one in answer.tool_calls] == ["", "store"]


async def test_halves_of_a_character_are_put_together_in_arguments_too() -> None:
    def raw(piece: str, **more: Any) -> bytes:
        return (
            b"data: "
            + json.dumps(calls(call(None, "@", index=0, **more))).encode().replace(b"@", piece.encode())
            + b"\n\n"
        )

    begun = calls(call("echo", '{"text": "', index=0, id="a"))
    answer = await streamed(events(begun, raw("\\ud83d"), raw("\\ude00"), calls(call(None, '"}', index=0)), "[DONE]"))
    assert answer.tool_calls == (ToolCall("a", "echo", {"text": "😀"}),)


async def test_names_ids_and_reasons_of_any_length_are_kept_within_bounds() -> None:
    odd = call("x" * 50_000, "{}", id="y" * 50_000)
    answer = await whole(completion(None, [odd], "z" * 50_000, model="m" * 50_000))
    (asked,) = answer.tool_calls
    assert [len(text) for text in (asked.name, asked.id, answer.finish_reason, answer.model)] == [
        200,
        10_000,
        200,
        200,
    ]


async def test_calls_that_cannot_be_stored_together_are_faults() -> None:
    large = [call("store", {"data": {"text": "x" * 240_000}}, id=str(n)) for n in range(8)]
    answer = await whole(completion(None, large))
    assert [bool(one.fault) for one in answer.tool_calls] == [False] * 4 + [True] * 4
    assert "Send fewer at a time" in answer.tool_calls[-1].fault


async def test_more_calls_than_a_turn_can_hold_are_too_much() -> None:
    with pytest.raises(AnswerTooLarge, match="asks for more than 128 calls"):
        await whole(completion(None, [call("now", "{}")] * 129))


async def test_a_long_call_in_many_fragments_takes_no_longer_than_it_must() -> None:
    text = json.dumps({"data": {str(n): {"a": {}} for n in range(6_000)}})
    fragments = [call("store", text[at : at + 4], index=0, id="b") for at in range(0, len(text), 4)]
    began = time.monotonic()
    few = [calls(*fragments[at : at + 100]) for at in range(0, len(fragments), 100)]
    answer = await whole(*[events(*few, "[DONE]")])
    assert answer.tool_calls[0].fault == ""
    assert time.monotonic() - began < 60
