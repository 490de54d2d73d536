"""Answers and errors in the shapes in which endpoints really send them, whatever they call them."""

import json
from typing import Any

import pytest

from domain.models.chat import (
    AnswerCut,
    AnswerMalformed,
    ModelError,
    ModelOverloaded,
    ModelRejectedRequest,
    ModelUnreachable,
    Usage,
)
from infrastructure.models.openai.endpoints import PLACES, TimeLimits
from tests.fakes.openai_server import USAGE, Cut, Pause, Reply, chunk, completion, event, events, stream
from tests.support.openai import KEY, error_of, raised_by, streamed, whole

HELLO = completion("Hello").body[0]
STREAM = stream("Hel", "lo").body
LINES = [json.dumps(part).encode() + b"\n" for part in (chunk("Hel"), chunk("lo"), chunk(finish="stop"), USAGE)]
TYPES = ["application/json", "text/event-stream", "text/plain", "application/octet-stream", "text/html", ""]


def typed(kind: str, *body: Any) -> Reply:
    return Reply(body, headers={"content-type": kind} if kind else {})


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "body",
    [
        [HELLO],
        [b"\n\n \n", HELLO],
        [b"\xef\xbb\xbf", HELLO],
        STREAM,
        [b"\xef\xbb\xbf", *STREAM],
        [b"\n", b": waiting\n\n", *STREAM],
        LINES,
        [bytes([byte]) for byte in b"".join(part for part in STREAM if isinstance(part, bytes))],
    ],
    ids=["JSON", "blanks", "JSON with a mark", "events", "events with a mark", "a comment", "lines", "byte by byte"],
)
async def test_the_body_says_what_it_is_and_not_its_type(kind: str, body: list[Any]) -> None:
    for ask in (streamed, whole):
        answer = await ask(typed(kind, *body))
        assert (answer.content, answer.usage) == ("Hello", Usage(7, 3))


TEXTS: dict[str, list[Any]] = {
    "a list of parts": [chunk([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])],
    "parts of several kinds": [
        chunk([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello"}])
    ],
    "thoughts first": [chunk([{"type": "thinking", "thinking": "hm"}]), chunk("Hello")],
    "a part alone": [chunk({"type": "text", "text": "Hello"})],
    "output parts": [chunk([{"type": "output_text", "text": "Hello"}, None])],
    "texts in a list": [chunk(["Hel", "lo"])],
    "roles and nothing else": [chunk(None, role="assistant"), chunk(None, role="assistant"), chunk("Hello")],
    "no role": [chunk("Hello")],
    "no choices": [{"choices": []}, chunk("Hello"), {"choices": None}],
    "an empty choice": [{"choices": [None]}, {"choices": [{}]}, {"choices": [{"delta": None}]}, chunk("Hello")],
    "fields of null": [chunk(None, role=None, tool_calls=None, function_call=None, refusal=None), chunk("Hello")],
    "an empty list of calls": [chunk("Hello", tool_calls=[])],
    "the usage of null": [{**chunk("Hello"), "usage": None}],
    "filters of Azure": [{"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, chunk("Hello")],
    "comments between": [b": waiting\n\n", chunk("Hel"), b": still waiting\n\n", chunk("lo")],
    "pings between": [b"event: ping\ndata: {}\n\n", chunk("Hel"), b"data:\n\n", b"data: null\n\n", chunk("lo")],
    "odd types beside it": [{**chunk("Hello"), "model": 7, "created": "now", "id": None}],
    "a number as text": [{"choices": [{"index": "0", "delta": {"content": "Hello"}}]}],
    "a message in a stream": [{"choices": [{"message": {"content": "Hello"}}]}],
}


@pytest.mark.parametrize("parts", TEXTS.values(), ids=TEXTS)
async def test_a_text_is_found(parts: list[Any]) -> None:
    assert (await streamed(events(*parts, chunk(finish="stop"), "[DONE]"))).content == "Hello"


async def test_an_only_answer_may_have_any_number() -> None:
    parts = [{"choices": [{"index": 1, "delta": {"content": piece}}]} for piece in ("Hel", "lo")]
    end = {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}
    answer = await streamed(events(*parts, end))
    assert (answer.content, answer.finish_reason) == ("Hello", "length")


async def test_a_number_is_a_text_and_other_values_are_none() -> None:
    contents = [42, 1.5, True, {"type": "image_url"}, [{"type": "image_url"}]]
    answers = [await whole(completion(content)) for content in contents]
    assert [answer.content for answer in answers] == ["42", "1.5", "", "", ""]


@pytest.mark.parametrize("reason", ["", None, 0, "stop", 1, "length"])
async def test_a_reason_is_text_or_follows_from_the_end(reason: Any) -> None:
    answer = await streamed(events(chunk("Hello"), chunk(finish=reason), "[DONE]"))
    assert answer.finish_reason == str(reason or "stop")


async def test_halves_of_a_character_are_put_together() -> None:
    def half(text: str) -> bytes:
        return event('{"choices": [{"index": 0, "delta": {"content": "' + text + '"}}]}')

    parts = [half("hello \\ud83d"), half("\\ude00 and \\ud83d"), half("\\ude00"), chunk("."), chunk(finish="stop")]
    assert (await streamed(events(*parts))).content == "hello 😀 and 😀."
    lone = [half("a\\ud83d"), half("b\\ude00c"), half("\\ud83d"), "[DONE]"]
    assert (await streamed(events(*lone))).content == "a\ufffdb\ufffdc\ufffd"
    assert (await whole(completion(choices=[{"message": {"content": "\ud83d\ude00"}}]))).content == "😀"


ERRORS: dict[str, tuple[Any, type[ModelError]]] = {
    "an object": ({"error": {"message": "slot lost"}}, AnswerCut),
    "a text": ({"error": "slot lost"}, AnswerCut),
    "vLLM's": ({"object": "error", "message": "slot lost", "type": "x", "code": 400}, ModelRejectedRequest),
    "FastAPI's": ({"detail": "slot lost"}, AnswerCut),
    "FastAPI's list": ({"detail": [{"loc": ["body"], "msg": "slot lost"}]}, AnswerCut),
    "Gemini's list": ([{"error": {"code": 503, "message": "slot lost", "status": "UNAVAILABLE"}}], ModelOverloaded),
    "with a status": ({"error": {"message": "slot lost", "code": 429}}, ModelOverloaded),
    "with a status as text": ({"error": {"message": "slot lost", "code": "400"}}, ModelRejectedRequest),
    "with another code": ({"error": {"message": "slot lost", "code": "slot_lost"}}, AnswerCut),
    "nested": ({"error": {"error": {"message": "slot lost", "status": 500}}}, ModelOverloaded),
    "a message alone": ({"message": "slot lost", "type": "overloaded"}, AnswerCut),
    "beside an empty choice": ({"error": {"message": "slot lost"}, "choices": [{"delta": {"content": ""}}]}, AnswerCut),
}


@pytest.mark.parametrize(("error", "kind"), ERRORS.values(), ids=ERRORS)
async def test_an_error_in_the_place_of_an_answer_is_one(error: Any, kind: type[ModelError]) -> None:
    assert "slot lost" in await raised_by(kind, events(error, "[DONE]"))
    assert "slot lost" in await raised_by(kind, events(chunk(None, role="assistant"), error))
    assert "slot lost" in await raised_by(kind, Reply([b"event: error\n", *events(error).body]))
    assert "slot lost" in await raised_by(kind, Reply([json.dumps(error).encode()]))
    assert "slot lost" in await raised_by(AnswerCut, events(chunk("Hel"), error, "[DONE]"))


async def test_a_text_in_the_place_of_an_answer_is_told_without_the_key() -> None:
    told = await raised_by(AnswerMalformed, Reply([f"Loading, {KEY}".encode()]))
    assert "Loading, [key]" in told


async def test_after_a_broken_chunk_the_usage_is_still_read_but_not_waited_for() -> None:
    error = await error_of(events(chunk("Half"), "{broken", chunk("more"), USAGE, "[DONE]"))
    assert (type(error), error.usage) == (AnswerMalformed, Usage(7, 3))
    error = await error_of(events(chunk("Half"), "{broken", Pause(30), USAGE, "[DONE]"))
    assert (type(error), error.usage) == (AnswerMalformed, None)


class TestTime:
    async def test_the_first_token_may_take_longer_than_the_next_ones(self) -> None:
        late = events(chunk("", role="assistant"), Pause(2.5), chunk("Hello"), "[DONE]")
        assert (await streamed(late, limits=TimeLimits(first_byte=30, silence=2))).content == "Hello"

    async def test_a_server_that_shows_that_it_is_at_work_is_waited_for(self) -> None:
        busy = events(*[step for _ in range(5) for step in (b": loading\n\n", Pause(0.8))], chunk("Hello"), "[DONE]")
        assert (await streamed(busy, limits=TimeLimits(first_byte=3, silence=30))).content == "Hello"

    @pytest.mark.parametrize(
        ("steps", "limits", "kind", "setting"),
        [
            ([Pause(9)], TimeLimits(first_byte=0.2), ModelUnreachable, "LLM_FIRST_BYTE_SECONDS"),
            (
                [chunk("", role="assistant"), Pause(9)],
                TimeLimits(first_byte=0.2),
                ModelUnreachable,
                "LLM_FIRST_BYTE_SECONDS",
            ),
            ([chunk("Hel"), Pause(9)], TimeLimits(silence=0.2), AnswerCut, "LLM_SILENCE_SECONDS"),
            ([chunk("Hel"), Pause(9)], TimeLimits(total=2), AnswerCut, "LLM_TOTAL_SECONDS"),
            ([Pause(9)], TimeLimits(total=0.2), ModelUnreachable, "LLM_TOTAL_SECONDS"),
        ],
    )
    async def test_an_error_names_the_setting(
        self, steps: list[Any], limits: TimeLimits, kind: type[ModelError], setting: str
    ) -> None:
        assert f"{setting} sets how long to wait" in await raised_by(kind, events(*steps), limits=limits)
        named = await raised_by(
            kind, events(*steps), limits=limits, places={**PLACES, "first_byte": "x", "silence": "x", "total": "x"}
        )
        assert "x sets how long to wait" in named

    async def test_a_call_is_not_waited_for_once_the_usage_has_come(self) -> None:
        call = chunk(
            None,
            tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}],
            finish="tool_calls",
        )
        answer = await streamed(events(call, USAGE, Pause(9), Cut()), limits=TimeLimits(silence=60))
        assert answer.usage == Usage(7, 3)


@pytest.mark.parametrize("field", ["content", "refusal"])
async def test_an_answer_that_is_nested_too_deeply_is_malformed_and_costs_what_it_says(field: str) -> None:
    deep = json.loads("[" * 850 + "]" * 850)
    body = completion(None, choices=[{"index": 0, "message": {"role": "assistant", field: deep}}])
    error = await error_of(body)
    assert isinstance(error, AnswerMalformed)
    assert "nested too deeply" in str(error)
    assert error.accepted
    assert error.usage == Usage(7, 3)
