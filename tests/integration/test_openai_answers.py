"""Answers of an OpenAI-compatible endpoint, whole and streamed, as such servers give them."""

import asyncio
from typing import Any

import pytest

from domain.models.chat import AnswerCut, AnswerMalformed, ToolCall, Usage
from infrastructure.models.openai.endpoints import TimeLimits
from tests.fakes.openai_server import (
    USAGE,
    Cut,
    OpenAIServer,
    Pause,
    Reply,
    chunk,
    completion,
    event,
    events,
    stream,
)
from tests.support.openai import ASK, call, calls, client, streamed, whole


class TestAWholeAnswer:
    async def test_has_text_usage_and_reason(self) -> None:
        answer = await whole(completion("Hi"))
        assert (answer.content, answer.tool_calls, answer.finish_reason) == ("Hi", (), "stop")
        assert (answer.model, answer.usage) == ("test-1", Usage(7, 3))

    @pytest.mark.parametrize("content", [None, ""])
    @pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
    async def test_may_ask_for_tools(self, content: str | None, arguments: Any) -> None:
        answer = await whole(completion(content, [call("add", arguments, id="c7", type="function")], "tool_calls"))
        assert answer.content is None
        assert answer.tool_calls == (ToolCall("c7", "add", {"a": 1}),)

    @pytest.mark.parametrize("nothing", ["", " ", None, {}])
    async def test_may_ask_for_a_tool_without_arguments(self, nothing: Any) -> None:
        answer = await whole(completion(None, [call("now", nothing, id="c7")]))
        assert answer.tool_calls == (ToolCall("c7", "now", {}),)

    async def test_names_calls_that_have_no_id_apart_from_those_that_have(self) -> None:
        parts = [call("a", {}), call("b", {}, id="call_1"), call("c", {}, id=None), call("d", {}, id=5)]
        answer = await whole(completion(None, parts))
        assert [c.id for c in answer.tool_calls] == ["call_2", "call_1", "call_3", "5"]

    @pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3}])
    async def test_may_lack_usage(self, usage: Any) -> None:
        assert (await whole(completion("Hi", usage=usage))).usage is None

    async def test_may_lack_a_reason(self) -> None:
        assert (await whole(completion("Hi", finish=None))).finish_reason == "stop"

    async def test_gives_a_refusal_as_its_text(self) -> None:
        message = {"role": "assistant", "content": None, "refusal": "I will not."}
        answer = await whole(completion(choices=[{"message": message, "finish_reason": "stop"}]))
        assert answer.content == "I will not."

    async def test_can_be_stored(self) -> None:
        answer = await whole(completion("a\0b\ud800c"))
        assert answer.content == "a\ufffdb\ufffdc"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b"<html>",
            b'{"choices": []}',
            b'{"choices": "x"}',
            b"[" * 9_999,
            b'{"choices": [{',
        ],
        ids=lambda body: repr(body[:12]),
    )
    async def test_that_is_none_is_malformed(self, body: bytes) -> None:
        with pytest.raises(AnswerMalformed):
            await whole(Reply([body]))

    async def test_that_is_an_error_with_status_200_is_one(self) -> None:
        with pytest.raises(AnswerCut, match="out of memory"):
            await whole(Reply([b'{"error": {"message": "out of memory"}}']))

    async def test_that_breaks_off_is_cut(self) -> None:
        with pytest.raises(AnswerCut):
            await whole(Reply([b'{"choices": [', Cut()]))

    async def test_may_take_longer_to_begin_than_a_streamed_one(self) -> None:
        late = Reply(completion("Hi").body, before=[Pause(0.15)])
        assert (await whole(late, limits=TimeLimits(first_byte=0.05, silence=0.05))).content == "Hi"


class TestAStreamedAnswer:
    async def test_is_shown_as_it_comes(self) -> None:
        answer = await streamed(stream("Hel", "lo", " there"))
        assert (answer.content, answer.finish_reason, answer.model) == ("Hello there", "stop", "test-1")
        assert answer.usage == Usage(7, 3)

    async def test_is_shown_before_it_is_complete(self) -> None:
        first = asyncio.Event()
        async with (
            OpenAIServer(events(chunk("a"), Pause(0.2), chunk("b"), "[DONE]")) as server,
            client(server) as model,
        ):
            task = asyncio.create_task(model.complete(ASK, lambda _: first.set()))
            await first.wait()
            assert not task.done()
            await task

    @pytest.mark.parametrize(
        "ends",
        [
            [chunk(finish="stop"), "[DONE]"],
            [chunk(finish="stop")],
            [chunk(finish="stop"), Cut()],
            [chunk(finish="stop"), b'data: {"choi', Cut()],
            ["[DONE]"],
            [b"data: [DONE]"],
            [b"data:[DONE]\n"],
            ["[DONE]", chunk("never"), b"data: gibberish\n\n"],
        ],
    )
    async def test_is_complete_once_it_says_so(self, ends: list[Any]) -> None:
        answer = await streamed(events(chunk("All"), *ends))
        assert (answer.content, answer.finish_reason) == ("All", "stop")

    @pytest.mark.parametrize("ends", [[chunk(finish="stop")], ["[DONE]"]])
    async def test_is_not_held_up_by_a_server_that_keeps_the_line(self, ends: list[Any]) -> None:
        answer = await streamed(events(chunk("All"), *ends, Pause(5)), limits=TimeLimits(silence=0.1))
        assert answer.content == "All"

    async def test_may_be_split_anywhere_and_have_comments(self) -> None:
        data = (
            b": hi\r\n\r\nevent: x\r\nid: 1\r\n" + event(chunk("Grü"), "\r\n\r\n") + event(chunk("ße 🎉"), "\r\n\r\n")
        )
        raw = data.replace(b"\\u00fc", "ü".encode()).replace(b"\\ud83c\\udf89", "🎉".encode()) + b"data: [DONE]\r\n\r\n"
        answer = await streamed(events(*(raw[i : i + 1] for i in range(len(raw)))))
        assert answer.content == "Grüße 🎉"

    async def test_may_come_as_a_whole_all_the_same(self) -> None:
        assert (await streamed(completion("Hi"))).content == "Hi"

    async def test_ignores_answers_that_nobody_asked_for(self) -> None:
        other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
        answer = await streamed(events(other, chunk("yes"), chunk(finish="length")))
        assert (answer.content, answer.finish_reason) == ("yes", "length")

    @pytest.mark.parametrize("usage", [[], [USAGE]])
    async def test_may_lack_usage(self, usage: list[Any]) -> None:
        answer = await streamed(events(chunk("a"), chunk(finish="stop"), *usage, "[DONE]"))
        assert answer.usage == (Usage(7, 3) if usage else None)

    @pytest.mark.parametrize(
        "parts",
        [
            pytest.param(
                [
                    calls(call("f", "", index=0, id="x")),
                    calls(call(None, '{"n"', index=0)),
                    calls(call("g", "", index=1, id="y")),
                    calls(call(None, ": 1}", index=0), call(None, '{"n": 2}', index=1)),
                ],
                id="as OpenAI does",
            ),
            pytest.param(
                [calls(call("f", '{"n": 1}', index=0, id="x"), call("g", '{"n": 2}', index=1, id="y"))], id="at once"
            ),
            pytest.param(
                [calls(call("f", '{"n":', id="x")), calls(call(None, "1}")), calls(call("g", {"n": 2}, id="y"))],
                id="without index",
            ),
            pytest.param(
                [calls(call("f", '{"n": 1}', index=0, id="x")), calls(call("g", '{"n": 2}', index=0, id="y"))],
                id="every index 0",
            ),
            pytest.param(
                [
                    calls(call("f", '{"n": 1}', index=0, id="x")),
                    calls(call("f", "", index=0, id="x")),
                    calls(call("g", '{"n": 2}', index=1, id="y")),
                ],
                id="the name once more after the end",
            ),
            pytest.param(
                [
                    calls(call("f", '{"n":', index=0, id="x")),
                    calls(call(None, "1}", index=0, id="z")),
                    calls(call("g", '{"n": 2}', index=1, id="y")),
                ],
                id="an id for each fragment",
            ),
            pytest.param(
                [
                    calls(call("f", '{"n":', index=0, id="x")),
                    calls(call("f", "1}", index=0, id="x")),
                    calls(call("g", '{"n": 2}', index=1, id="y")),
                ],
                id="the name in each fragment",
            ),
        ],
    )
    async def test_may_ask_for_tools_in_fragments(self, parts: list[Any]) -> None:
        answer = await streamed(events(chunk(""), *parts, chunk(finish="tool_calls"), "[DONE]"))
        assert answer.tool_calls == (ToolCall("x", "f", {"n": 1}), ToolCall("y", "g", {"n": 2}))
        assert (answer.content, answer.finish_reason) == (None, "tool_calls")

    async def test_keeps_calls_apart_by_their_ids_where_the_first_has_no_arguments(self) -> None:
        parts = [calls(call("f", "", index=0, id="x")), calls(call("g", '{"n": 2}', index=0, id="y"))]
        answer = await streamed(events(*parts, "[DONE]"))
        assert answer.tool_calls == (ToolCall("x", "f", {}), ToolCall("y", "g", {"n": 2}))

    async def test_keeps_calls_apart_that_have_neither_index_nor_id(self) -> None:
        parts = [calls(call("f", {"n": 1})), calls(call("f", '{"n":')), calls(call("f", "2}")), calls(call("g", None))]
        answer = await streamed(events(*parts, "[DONE]"))
        assert [(c.id, c.name, c.arguments) for c in answer.tool_calls] == [
            ("call_1", "f", {"n": 1}),
            ("call_2", "f", {"n": 2}),
            ("call_3", "g", {}),
        ]
