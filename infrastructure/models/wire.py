"""Chat completions as they go over the wire: what is sent, and the shapes that come back.

Servers differ in what they leave out, so nearly everything is optional here; `assembly.py` decides what it means.
"""

import json
import re
from typing import Any

import msgspec
from msgspec import Struct, field

from domain.chat import AnswerMalformed, ChatMessage, ChatRequest, ToolSpec, Usage
from domain.json import JsonObject

_USAGE = re.compile(r'(?<!\\)"usage"\s*+:\s*+(?=\{)')
"""Where a usage begins. Within a string of JSON the quotes would follow on backslashes."""

MAX_USAGE = 4_000
"""Characters of a usage."""

MAX_USAGES = 4
"""Usages that are tried in an answer that cannot be read."""

_JSON = json.JSONDecoder()


class Function(Struct):
    """A function's name and arguments: JSON text or a piece of it, or from some servers an object."""

    name: str | None = None
    arguments: Any = None


class CallPart(Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | int | None = None
    function: Function | None = None


class Part(Struct):
    """A message, or what a chunk adds to it."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPart] | None = None
    function_call: Any = None

    @property
    def legacy_call(self) -> Function | None:
        """A call, or a piece of one, as it was written before there could be several."""
        if not isinstance(self.function_call, dict):
            return None
        found = msgspec.convert(self.function_call, Function)
        return found if found.name or found.arguments is not None else None


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

    `usage` is read by `read_usage`: an answer is one, whatever nonsense stands beside it.
    """

    choices: list[Choice] | None = field(default_factory=list)
    usage: Any = None
    model: str | None = None
    error: Any = None


def read_completion(text: str | bytes) -> Completion:
    """Read an answer or a chunk of one. Raise `AnswerMalformed` if it is neither, with the usage if it has one.

    The standard library's parser is used because it takes the lone surrogates that some servers write where they
    cut a text in the middle of a character.
    """
    try:
        return msgspec.convert(json.loads(text), Completion)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        malformed = AnswerMalformed(f"The model's answer is not a chat completion: {error}")
        malformed.written = text if isinstance(text, str) else text.decode("utf-8", "replace")
        malformed.usage = usage_within(malformed.written)
        raise malformed from error


def read_usage(usage: Any) -> Usage | None:
    """Read what an endpoint says that it used; None if that is nothing, or no numbers."""
    try:
        counts = msgspec.convert(usage, Counts)
    except msgspec.ValidationError:
        return None
    if counts.prompt_tokens is None or counts.completion_tokens is None:
        return None
    return Usage(max(0, counts.prompt_tokens), max(0, counts.completion_tokens))


def usage_within(text: str) -> Usage | None:
    """Find the usage in an answer, or a chunk of one, that cannot be read otherwise; the last one if there are more."""
    for place in [found.end() for found in _USAGE.finditer(text)][: -MAX_USAGES - 1 : -1]:
        try:
            usage, _ = _JSON.raw_decode(text[place : place + MAX_USAGE])
        except (ValueError, RecursionError):
            continue
        if found := read_usage(usage):
            return found
    return None


def write_request(request: ChatRequest, model: str, *, stream: bool, limit_field: str) -> bytes:
    """Write the body of a request. `limit_field` is what the endpoint calls the limit on the answer's tokens."""
    body: JsonObject = {"model": model, "messages": [_message(m) for m in request.messages], "stream": stream}
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
    written: JsonObject = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        written["tool_calls"] = [
            {
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
