"""What an OpenAI-compatible endpoint is asked, and where."""

import asyncio
import socket
from uuid import UUID

import pytest

from domain.errors import InvalidInput
from domain.ids import ThreadId
from domain.models.chat import ChatMessage, ChatRequest, ModelUnreachable, OutputFormat, ToolCall, ToolSpec
from infrastructure.models.openai.client import OpenAIChatModel
from tests.fakes.openai_server import (
    Cut,
    OpenAIServer,
    Pause,
    Reply,
    chunk,
    completion,
    events,
    stream,
)
from tests.support.openai import ASK, KEY, Naps, client, streamed, whole


class TestARequest:
    async def test_carries_messages_tools_key_and_thread(self) -> None:
        thread = ThreadId(UUID(int=7))
        spec = ToolSpec("add", "Add.", {"type": "object", "properties": {}})
        messages = (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "1+1?"),
            ChatMessage("assistant", None, (ToolCall("c12345678", "add", {"a": 1}),)),
            ChatMessage("tool", "2", tool_call_id="c12345678", name="add"),
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
                    "content": "",
                    "tool_calls": [
                        {"id": "c12345678", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
                    ],
                },
                {"role": "tool", "content": "2", "tool_call_id": "c12345678", "name": "add"},
            ],
        }

    async def test_carries_the_schema_of_its_answer(self) -> None:
        schema = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
        request = ChatRequest(ASK.messages, output=OutputFormat("Refund", schema))
        answer = completion('{"amount": 3}')
        async with OpenAIServer(answer) as server, client(server) as model:
            given = await model.complete(request)
        assert server.requests[0].body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "Refund", "schema": {**schema, "additionalProperties": False}, "strict": True},
        }
        assert (given.content, given.omitted) == ('{"amount": 3}', ())

    async def test_says_no_more_than_it_must(self) -> None:
        async with OpenAIServer() as server, client(server, key=None) as model:
            await model.complete(ASK)
        sent = server.requests[0]
        assert sent.body == {"model": "small", "messages": [{"role": "user", "content": "Hello?"}]}
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
        script = events(chunk("Once"), Pause(60), chunk(" upon"))
        async with OpenAIServer(script) as server, client(server) as model:
            task = asyncio.create_task(model.complete(ASK, lambda _: begun.set()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.requests[0].left.wait(), 20)


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
