"""The client of chat completions, against a real server on a socket that behaves as servers do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from domain.chat import (
    AnswerCut,
    AnswerMalformed,
    AnswerTooLarge,
    ChatMessage,
    ChatRequest,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    ModelRejectedRequest,
    ModelUnknown,
    ModelUnreachable,
    ToolArgumentsMalformed,
    ToolCall,
    ToolSpec,
    Usage,
)
from domain.errors import InvalidInput
from domain.ids import ThreadId
from infrastructure.models.openai import OpenAIChatModel, TimeLimits
from infrastructure.models.retry import RetryPolicy
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
    refusal,
    stream,
)

KEY = "sk-very-secret"
ASK = ChatRequest((ChatMessage("user", "Hello?"),))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Complete = Callable[..., Awaitable[Any]]


class Naps:
    """Stands for sleeping: notes how long."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@asynccontextmanager
async def client(server: OpenAIServer, **options: Any) -> AsyncIterator[OpenAIChatModel]:
    given = {"now": lambda: NOON, "random": lambda: 1.0, "sleep": Naps(), **options}
    model = OpenAIChatModel(given.pop("endpoint", server.endpoint), given.pop("key", KEY), "small", **given)
    try:
        yield model
    finally:
        await model.close()


async def whole(*script: Reply, request: ChatRequest = ASK, **options: Any) -> Any:
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        return await model.complete(request)


async def streamed(*script: Reply, request: ChatRequest = ASK, **options: Any) -> Any:
    """Return the answer, after checking that its text is what was shown."""
    shown: list[str] = []
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        answer = await model.complete(request, shown.append)
    assert "".join(shown) == (answer.content or "")
    return answer


async def raised_by(kind: type[ModelError], *script: Reply, shown: list[str] | None = None, **options: Any) -> str:
    """Return the message of the error that a streamed request ends with."""
    async with OpenAIServer(*script) as server, client(server, **options) as model:
        with pytest.raises(kind) as caught:
            await model.complete(ASK, (shown if shown is not None else []).append)
    assert type(caught.value) is kind
    return str(caught.value)


def call(name: str | None, arguments: Any, **rest: Any) -> dict[str, Any]:
    function = {**({} if name is None else {"name": name}), **({} if arguments is None else {"arguments": arguments})}
    return {**rest, "function": function}


def calls(*parts: dict[str, Any]) -> dict[str, Any]:
    return chunk(None, tool_calls=list(parts))


class TestARequest:
    async def test_carries_messages_tools_key_and_thread(self) -> None:
        thread = ThreadId(UUID(int=7))
        spec = ToolSpec("add", "Add.", {"type": "object", "properties": {}})
        messages = (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "1+1?"),
            ChatMessage("assistant", None, (ToolCall("c1", "add", {"a": 1}),)),
            ChatMessage("tool", "2", tool_call_id="c1", name="add"),
        )
        request = ChatRequest(messages, (spec,), "large", 0.5, 99, thread)
        async with OpenAIServer() as server, client(server) as model:
            await model.complete(request, lambda _: None)
        sent = server.requests[0]
        assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
        assert sent.headers["authorization"] == f"Bearer {KEY}"
        assert sent.headers["x-threadfold-thread"] == str(thread)
        assert sent.body == {
            "model": "large",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "max_tokens": 99,
            "tools": [
                {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": spec.parameters}}
            ],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "1+1?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
                    ],
                },
                {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
            ],
        }

    async def test_says_no_more_than_it_must(self) -> None:
        async with OpenAIServer() as server, client(server, key=None) as model:
            await model.complete(ASK)
        sent = server.requests[0]
        assert sent.body == {"model": "small", "stream": False, "messages": [{"role": "user", "content": "Hello?"}]}
        assert "authorization" not in sent.headers
        assert "x-threadfold-thread" not in sent.headers

    @pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/", "?api-version=1"])
    async def test_finds_its_path_however_the_endpoint_is_written(self, ending: str) -> None:
        async with OpenAIServer() as server, client(server, endpoint=server.endpoint + ending) as model:
            await model.complete(ASK)
        assert server.requests[0].path.partition("?")[0] == "/v1/chat/completions"

    @pytest.mark.parametrize("endpoint", ["", "localhost:11434", "ftp://x/v1", "http://", "http://[::", "http://a:b"])
    def test_needs_an_endpoint_that_is_a_url(self, endpoint: str) -> None:
        with pytest.raises(InvalidInput, match="endpoint"):
            OpenAIChatModel(endpoint, None, "m")

    @pytest.mark.parametrize("key", ["sk-a\nsk-b", "sk-ä"])
    def test_needs_a_key_that_a_header_can_carry_and_does_not_repeat_it(self, key: str) -> None:
        with pytest.raises(InvalidInput, match="api_key") as caught:
            OpenAIChatModel("http://localhost/v1", key, "m")
        assert "sk-" not in str(caught.value)

    async def test_to_this_machine_goes_past_any_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert (await whole(completion("Hi"))).content == "Hi"

    async def test_takes_the_connection_of_the_one_before(self) -> None:
        async with OpenAIServer(stream("a"), stream("b"), completion("c")) as server, client(server) as model:
            for _ in range(2):
                await model.complete(ASK, lambda _: None)
            await model.complete(ASK)
        assert server.connections == 1

    async def test_that_is_cancelled_lets_the_server_know(self) -> None:
        begun = asyncio.Event()
        script = events(chunk("Once"), Pause(5), chunk(" upon"))
        async with OpenAIServer(script) as server, client(server) as model:
            task = asyncio.create_task(model.complete(ASK, lambda _: begun.set()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.requests[0].left.wait(), 1)


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


class TestAnAnswerThatFails:
    @pytest.mark.parametrize(
        "steps",
        [[], [chunk("Half")], [chunk("Half"), Cut()], [chunk("Half"), b'data: {"choices', Cut()], [b": ping\n\n"]],
    )
    async def test_is_cut_if_it_ends_before_it_says_so(self, steps: list[Any]) -> None:
        await raised_by(AnswerCut, events(*steps))

    @pytest.mark.parametrize(
        "error", [{"message": "slot lost"}, "slot lost", {"error": {"message": "slot lost"}}, {"code": "slot lost"}]
    )
    async def test_is_cut_if_the_server_gives_up(self, error: Any) -> None:
        shown: list[str] = []
        assert "slot lost" in await raised_by(AnswerCut, events(chunk("Half"), {"error": error}, "[DONE]"), shown=shown)
        assert shown == ["Half"]

    async def test_is_cut_if_it_falls_silent(self) -> None:
        text = await raised_by(AnswerCut, events(chunk("Half"), Pause(5)), limits=TimeLimits(silence=0.1))
        assert "0.1 s" in text

    async def test_is_cut_if_it_never_comes_to_an_end(self) -> None:
        slow = events(*[step for _ in range(99) for step in (chunk("on and "), Pause(0.02))])
        assert "0.2 s" in await raised_by(AnswerCut, slow, limits=TimeLimits(total=0.2))

    @pytest.mark.parametrize("data", ["{", "nonsense", "[1]", '{"choices": 3}'])
    async def test_is_malformed_if_a_chunk_is(self, data: str) -> None:
        await raised_by(AnswerMalformed, events(chunk("Half"), data, "[DONE]"))

    async def test_is_malformed_if_it_is_nothing_at_all(self) -> None:
        await raised_by(AnswerMalformed, events("[DONE]"))

    async def test_is_malformed_if_a_tool_has_no_name(self) -> None:
        await raised_by(AnswerMalformed, events(calls(call(None, "{}", index=0)), "[DONE]"))

    @pytest.mark.parametrize(
        "arguments",
        [
            '{"a":',
            "[1]",
            '"text"',
            "null",
            "7",
            [1],
            7,
            '{"a": NaN}',
            '{"a": 1e999}',
            '{"a": "\\u0000"}',
            '{"a":' * 999,
            json.dumps({"a": 2**80}),
        ],
        ids=lambda value: str(value)[:16],
    )
    async def test_names_the_tool_whose_arguments_are_no_object_that_can_be_stored(self, arguments: Any) -> None:
        broken = calls(call("search", arguments, index=0, id="x"))
        text = await raised_by(ToolArgumentsMalformed, events(broken, chunk(finish="tool_calls")))
        assert "'search'" in text
        assert len(text) < 500

    @pytest.mark.parametrize("endless", [events(chunk("x" * 900), chunk("x" * 900), Pause(9)), completion("x" * 1800)])
    async def test_is_not_read_beyond_its_size_limit(self, endless: Reply) -> None:
        assert "1024 bytes" in await raised_by(AnswerTooLarge, endless, max_answer_bytes=1024)

    @pytest.mark.parametrize("late", [Reply(before=[Pause(5)]), events(Pause(5)), Reply(status=503, before=[Pause(5)])])
    async def test_counts_as_unreachable_if_it_does_not_begin(self, late: Reply) -> None:
        async with OpenAIServer(late) as server, client(server, limits=TimeLimits(first_byte=0.1)) as model:
            with pytest.raises(ModelUnreachable, match=r"0\.1 s"):
                await model.complete(ASK, lambda _: None)
        assert len(server.requests) == 1

    async def test_counts_as_unreachable_if_the_total_time_is_up_before_anything_is_shown(self) -> None:
        with pytest.raises(ModelUnreachable, match=r"0\.1 s"):
            await whole(Reply(before=[Pause(5)]), limits=TimeLimits(total=0.1))

    async def test_is_not_asked_for_again_once_it_began(self) -> None:
        async with OpenAIServer(events(chunk("Half"), Cut())) as server, client(server) as model:
            with pytest.raises(AnswerCut):
                await model.complete(ASK, lambda _: None)
        assert len(server.requests) == 1

    async def test_passes_on_what_the_listener_raises(self) -> None:
        def listen(_: str) -> None:
            raise TimeoutError("mine")

        async with OpenAIServer() as server, client(server) as model:
            with pytest.raises(TimeoutError, match="mine"):
                await model.complete(ASK, listen)


class TestARefusal:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, ModelRejectedRequest),
            (401, ModelRefused),
            (403, ModelRefused),
            (404, ModelUnknown),
            (302, ModelUnknown),
            (413, ModelRejectedRequest),
            (422, ModelRejectedRequest),
            (501, ModelOverloaded),
        ],
    )
    async def test_has_a_name_and_is_not_repeated(self, status: int, kind: type[ModelError]) -> None:
        async with OpenAIServer(refusal(status, "because")) as server, client(server) as model:
            with pytest.raises(kind, match=f"HTTP {status} because") as caught:
                await model.complete(ASK)
        assert type(caught.value) is kind
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
    async def test_that_may_pass_is_retried(self, status: int) -> None:
        naps = Naps()
        answer = await streamed(refusal(status), refusal(status), stream("At last"), sleep=naps)
        assert answer.content == "At last"
        assert naps.taken == [0.5, 1.0]

    async def test_is_retried_only_so_often(self) -> None:
        naps = Naps()
        async with OpenAIServer(otherwise=refusal(503, "busy")) as server, client(server, sleep=naps) as model:
            with pytest.raises(ModelOverloaded, match="busy"):
                await model.complete(ASK)
        assert len(server.requests) == 3

    async def test_is_not_retried_if_the_server_says_that_it_is_no_use(self) -> None:
        await raised_by(ModelOverloaded, refusal(429, x_should_retry="false"))

    @pytest.mark.parametrize(
        ("asked", "waited"),
        [
            ("2", 2.0),
            ("2.5", 2.5),
            ("0", 0.5),
            ("9999", 30.0),
            ("Thu, 01 Jan 2026 12:00:07 GMT", 7.0),
            ("Thu, 01 Jan 2026 11:00:00 GMT", 0.5),
            ("Thu, 01 Jan 2026 12:00:07", 7.0),
            ("soon", 0.5),
            ("-3", 0.5),
            ("²", 0.5),
            ("", 0.5),
        ],
    )
    async def test_is_retried_when_the_server_asks_for_it(self, asked: str, waited: float) -> None:
        naps = Naps()
        await whole(refusal(429, retry_after=asked), sleep=naps)
        assert naps.taken == [waited]

    async def test_is_raised_at_once_if_the_wait_would_outlast_the_total_time(self) -> None:
        naps = Naps()
        script = refusal(429, "slow down", retry_after="20")
        assert "slow down" in await raised_by(ModelOverloaded, script, sleep=naps, limits=TimeLimits(total=10))
        assert naps.taken == []

    async def test_waits_a_random_share_of_a_bound_that_doubles(self) -> None:
        naps = Naps()
        policy = RetryPolicy(attempts=6, base=1.0, cap=5.0)
        script = [refusal(503)] * 5
        await whole(*script, sleep=naps, random=lambda: 0.5, retry=policy)
        assert naps.taken == [0.5, 1.0, 2.0, 2.5, 2.5]

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"error": {"message": "no such model"}}', "no such model"),
            (b'{"error": "no such model"}', "no such model"),
            (b'{"object": "error", "message": "no such model"}', "no such model"),
            (b'{"detail": [{"msg": "field required"}]}', "field required"),
            (b"no\n such  model", "no such model"),
            (b"<html>secret gateway</html>", "HTTP 400"),
            (b"", "HTTP 400"),
            (b"\xff\x00", "HTTP 400"),
            (b"7", "7"),
        ],
    )
    async def test_tells_what_the_server_said(self, body: bytes, said: str) -> None:
        text = await raised_by(ModelRejectedRequest, Reply([body], 400))
        assert said in text
        assert "gateway" not in text

    async def test_is_brief(self) -> None:
        assert len(await raised_by(ModelRejectedRequest, refusal(400, "x" * 100_000))) < 400

    @pytest.mark.parametrize(("begins", "silence"), [(b"{", 0.1), (b"x" * 70_000, 4.0)], ids=["silent", "endless"])
    async def test_ends_the_connection_if_its_explanation_has_no_end(self, begins: bytes, silence: float) -> None:
        reply, limits = Reply([begins, Pause(5)], 401), TimeLimits(silence=silence)
        async with OpenAIServer(reply) as server, client(server, limits=limits) as model:
            with pytest.raises(ModelRefused):
                await asyncio.wait_for(model.complete(ASK), 1)
            await asyncio.wait_for(server.requests[0].left.wait(), 1)

    async def test_does_not_wait_for_its_explanation(self) -> None:
        silent = Reply([b"{", Pause(5)], 401)
        assert "401" in await raised_by(ModelRefused, silent, limits=TimeLimits(silence=0.1))

    @pytest.mark.parametrize("before", ["", "y" * 295])
    async def test_never_tells_the_key(self, before: str) -> None:
        said = f"{before}bad key {KEY}"
        assert "sk-" not in await raised_by(ModelRefused, refusal(401, said))
        assert "sk-" not in await raised_by(ModelRefused, Reply([said.encode()], 401))
        assert "sk-" not in await raised_by(AnswerCut, events({"error": {"message": said}}))


class TestAnEndpoint:
    async def test_that_nobody_listens_at_is_unreachable_after_retries(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            naps = Naps()
            model = OpenAIChatModel(endpoint, KEY, "m", sleep=naps)
            with pytest.raises(ModelUnreachable, match=r"127\.0\.0\.1"):
                await model.complete(ASK)
            await model.close()
        assert len(naps.taken) == 1

    async def test_that_hangs_up_before_it_answers_is_asked_again(self) -> None:
        hang_up = Reply(before=[Cut()])
        assert (await streamed(hang_up, stream("Hi"))).content == "Hi"

    async def test_that_speaks_no_http_is_unreachable(self) -> None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        model = OpenAIChatModel(endpoint, None, "m", sleep=Naps())
        with pytest.raises(ModelUnreachable):
            await model.complete(ASK)
        await model.close()
        server.close()
        await server.wait_closed()
