"""Chat completions as they go over the wire: what is sent, and the shapes that come back.

Servers differ in what they leave out, so nearly everything is optional here; `assembly.py` decides what it means.
"""

import json
from typing import Any

import msgspec
from msgspec import Struct, field

from domain.canonical import canonical
from domain.chat import AnswerMalformed, ChatMessage, ChatRequest, ToolSpec
from domain.json import JsonObject
from infrastructure.models.opaque import set_apart


class Function(Struct):
    """A function's name and arguments: JSON text or a piece of it, or from some servers an object."""

    name: str | None = None
    arguments: Any = None


class CallPart(Struct):
    """A tool call, or a piece of one. `extra` holds all else: see `opaque.py`."""

    index: int | None = None
    id: str | int | None = None
    function: Function | None = None
    extra: JsonObject | None = None


class Part(Struct):
    """A message, or what a chunk adds to it. `extra` holds all else: see `opaque.py`."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None
    extra: JsonObject | None = None


class Choice(Struct):
    """One of the answers; we ask for one only. `message` comes whole, `delta` comes streamed."""

    index: int | None = None
    message: Part | None = None
    delta: Part | None = None
    finish_reason: str | None = None


class Counts(Struct):
    """Tokens as the endpoint counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(Struct):
    """A whole answer, or one chunk of a streamed one. `error` is how a server gives up after its status 200.

    `usage` is read by `read_counts`: an answer is one, whatever nonsense stands beside it.
    """

    choices: list[Choice] | None = field(default_factory=list)
    usage: Any = None
    model: str | None = None
    error: Any = None


def read_completion(text: str | bytes) -> Completion:
    """Read an answer or a chunk of one. Raise `AnswerMalformed` if it is neither.

    The standard library's parser is used because it takes the lone surrogates that some servers write where they
    cut a text in the middle of a character.
    """
    try:
        data = json.loads(text)
        set_apart(data)
        return msgspec.convert(data, Completion)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise AnswerMalformed(f"The model's answer is not a chat completion: {error}") from error


def read_counts(usage: Any) -> Counts | None:
    """Read what an endpoint says that it used; None if that is nothing, or no numbers."""
    try:
        return msgspec.convert(usage, Counts)
    except msgspec.ValidationError:
        return None


def write_request(request: ChatRequest, model: str, *, stream: bool, limit_field: str, origin: str = "") -> bytes:
    """Write the body of a request, as every strict endpoint accepts it.

    `limit_field` is what the endpoint calls the limit on the answer's tokens; `origin` names it as answers do.
    """
    messages = canonical(request.messages, [tool.name for tool in request.tools], origin)
    body: JsonObject = {"model": model, "messages": [_message(m) for m in messages], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [_tool(t) for t in request.tools]
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body[limit_field] = request.max_tokens
    return msgspec.json.encode(body)


def _message(message: ChatMessage) -> JsonObject:
    # llama.cpp's server refuses null, and its templates a message without content.
    written: JsonObject = {**message.extra, "role": message.role, "content": message.content or ""}
    if message.tool_calls:
        written["tool_calls"] = [
            {
                **call.extra,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": msgspec.json.encode(call.arguments).decode()},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        written["name"] = message.name
    return written


def _tool(spec: ToolSpec) -> JsonObject:
    described = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": described}
