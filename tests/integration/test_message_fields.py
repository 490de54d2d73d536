"""Endpoints that refuse their own data, or a name in a tool's result: over HTTP."""

import json
from typing import Any

import pytest

from domain.models.chat import ChatMessage, ChatRequest, ModelRejectedRequest, ToolCall, ToolSpec
from infrastructure.models.openai.refusals import refused_data
from tests.fakes.openai_server import OpenAIServer, Reply, Request, refusal
from tests.fakes.strict_model import Answer
from tests.support.openai import client

ECHO = ToolSpec("echo", "", {"type": "object", "properties": {}})

GROQ = (
    "'messages.{n}' : for 'role:{role}' the following must be satisfied"
    "[('messages.{n}' : property '{field}' is unsupported)]"
)
XAI = "Only messages of role 'user' can have a name."
PLAIN = "messages[{n}].{field} is not supported"


def fastapi(n: int, role: str, field: str) -> bytes:
    loc = ["body", "messages", n, role, field]
    return json.dumps(
        {"detail": [{"type": "extra_forbidden", "loc": loc, "msg": "Extra inputs are not permitted"}]}
    ).encode()


def refusing(field: str, words: str) -> Any:
    """Answer unless a message has a field; then refuse in these words, or as FastAPI does where there are none."""

    def answer(request: Request) -> Reply:
        for n, message in enumerate(request.body["messages"]):
            if field in message:
                if words:
                    return refusal(400, words.format(n=n, role=message["role"], field=field))
                return Reply([fastapi(n, message["role"], field)], 422)
        message = {"content": "Here I am.", "reasoning": "Hm.", "reasoning_content": "Hm."}
        return Answer(message).reply(stream=bool(request.body.get("stream")))

    return answer


def prompt(origin: str) -> ChatRequest:
    call = ToolCall("c1", "echo", {})
    said = {"reasoning": "Hm.", "reasoning_content": "Hm."}
    return ChatRequest(
        (
            ChatMessage("user", "go"),
            ChatMessage("assistant", None, (call,), extra=said, origin=origin),
            ChatMessage("tool", "done", tool_call_id="c1", name="echo"),
        ),
        (ECHO,),
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [*((f, w) for f in ("reasoning", "reasoning_content", "name") for w in (GROQ, PLAIN, "")), ("name", XAI)],
)
async def test_a_field_that_is_refused_is_left_out_from_then_on(field: str, words: str) -> None:
    async with OpenAIServer(otherwise=refusing(field, words)) as server, client(server) as model:
        origin = (await model.complete(ChatRequest((ChatMessage("user", "hi"),)))).origin
        for _ in range(2):
            assert (await model.complete(prompt(origin))).content == "Here I am."
    sent = [
        [sorted(m.keys() & {"reasoning", "reasoning_content", "name"}) for m in r.body["messages"]]
        for r in server.requests
    ]
    whole = [[], ["reasoning", "reasoning_content"], ["name"]]
    without = [[name for name in names if name != field] for names in whole]
    assert sent == [[[]], whole, without, without]  # one refusal, and what else was said goes back all the same


async def test_a_refusal_of_something_else_is_the_callers() -> None:
    async with (
        OpenAIServer(otherwise=refusal(400, "The tool's name is unknown: echo.")) as server,
        client(server) as model,
    ):
        with pytest.raises(ModelRejectedRequest):
            await model.complete(prompt("elsewhere"))
    assert len(server.requests) == 1


def test_a_name_counts_only_where_messages_are_the_matter() -> None:
    for words in ("unknown name of a model", "messages: name the model", "tools[0].function.name is not supported"):
        assert refused_data(json.dumps({"error": words}), prompt("here"), "elsewhere", ()) is None
