"""Chat completions as they go over the wire: what is sent, and the shapes that come back.

Servers differ in what they leave out, so nearly everything is optional here; `assembly.py` decides what it means.
"""

import json
import re
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct, field

from domain.json import JsonObject
from domain.models.chat import AnswerMalformed, ChatMessage, ChatRequest, ToolSpec, Usage
from domain.prompt.canonical import canonical
from infrastructure.models.openai.endpoint_data import set_apart
from infrastructure.models.openai.prompt_cache import PromptCache, ask_to_cache
from infrastructure.models.openai.returned_data import FOREIGN_CALLS, without_data

_USAGE = re.compile(r'(?<!\\)"usage"\s*+:\s*+(?=\{)')
"""Where a usage begins. Within a string of JSON the quotes would follow on backslashes."""

MAX_USAGE = 4_000
"""Characters of a usage."""

MAX_USAGES = 4
"""Usages that are tried in an answer that cannot be read."""

_JSON = json.JSONDecoder()

_REASONING = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thoughts")
"""Fields in which endpoints tell the model's reasoning. Where there are several, they tell the same."""


class Function(Struct):
    """A function's name and arguments: JSON text or a piece of it, or from some servers an object."""

    name: Any = None
    arguments: Any = None


class Custom(Struct):
    """A tool that takes any text, as some endpoints write calls of all tools."""

    name: Any = None
    input: Any = None


class CallPart(Struct):
    """A tool call, or a piece of one. `extra` holds all else: see `opaque.py`."""

    index: Any = None
    id: Any = None
    function: Function | None = None
    custom: Custom | None = None
    extra: JsonObject | None = None


class Part(Struct):
    """A message, or what a chunk adds to it. `extra` holds all else: see `opaque.py`.

    `function_call` is how calls were written before there were several.
    """

    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    extra: JsonObject | None = None


class Choice(Struct):
    """One of the answers; we ask for one only. `message` comes whole, `delta` comes streamed."""

    index: Any = None
    message: Part | None = None
    delta: Part | None = None
    finish_reason: Any = None


class Counts(Struct):
    """Tokens as the endpoint counted them.

    Most endpoints tell in `prompt_tokens_details` what of the prompt was cached, DeepSeek in `prompt_cache_hit_tokens`,
    some gateways to Anthropic in `cache_read_input_tokens`, and Moonshot in `cached_tokens`.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Any = None
    prompt_cache_hit_tokens: Any = None
    cache_read_input_tokens: Any = None
    cached_tokens: Any = None

    @property
    def cached(self) -> int:
        """Tokens of the prompt that were in the endpoint's cache; 0 where it does not say so in numbers."""
        details = self.prompt_tokens_details
        told = (
            details.get("cached_tokens") if isinstance(details, dict) else None,
            self.prompt_cache_hit_tokens,
            self.cache_read_input_tokens,
            self.cached_tokens,
        )
        return max((number for number in told if isinstance(number, int) and not isinstance(number, bool)), default=0)


class Completion(Struct):
    """A whole answer, or one chunk of a streamed one. `error` is how a server gives up after its status 200.

    `usage` is read by `read_usage`: an answer is one, whatever nonsense stands beside it. `speaks` says whether the
    model wrote anything in it, in whatever field, and `thoughts` is what it wrote there of its reasoning.
    """

    choices: list[Choice | None] | None = field(default_factory=list)
    usage: Any = None
    model: Any = None
    error: Any = None
    speaks: bool = False
    thoughts: str = ""


def read_completion(text: str | bytes) -> Completion:
    """Read an answer or a chunk of one. Raise `AnswerMalformed` if it is neither, with the usage if it has one.

    The standard library's parser is used because it takes the lone surrogates that some servers write where they
    cut a text in the middle of a character.
    """
    try:
        data = json.loads(text)
        if (error := _error_in(data)) is not None:
            return Completion(usage=data.get("usage") if isinstance(data, dict) else None, error=error)
        set_apart(data)
        completion = msgspec.convert(data, Completion)
        completion.speaks = _speaks(data)
        completion.thoughts = _thoughts(data)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        malformed = AnswerMalformed(f"The model's answer is not a chat completion: {error}")
        malformed.written = text if isinstance(text, str) else text.decode("utf-8", "replace")
        malformed.usage = usage_within(malformed.written)
        raise malformed from error
    return completion


def _parts(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of the messages in a completion, whose shape is checked, with those that were set apart."""
    choices = [choice for choice in data.get("choices") or () if choice]
    parts = [part for choice in choices for part in (choice.get("delta"), choice.get("message")) if part]
    return [{**part, **part.get("extra", {}), "extra": None} for part in parts]


def _speaks(data: dict[str, Any]) -> bool:
    """Say whether anything of a choice's message has content but for its role."""
    return any(value for part in _parts(data) for key, value in part.items() if key != "role")


def _thoughts(data: dict[str, Any]) -> str:
    """Return the reasoning in a choice's message: in a field of its own, or among the parts of its content."""
    found = []
    for part in _parts(data):
        found.append(next((text for key in _REASONING if (text := _texts_in(part.get(key)))), ""))
        content = part.get("content")
        entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
        found += [_texts_in(entry[key]) for entry in entries for key in _REASONING if key in entry]
    return "".join(found)


def _texts_in(value: Any) -> str:
    """Return the text of a reasoning: a text, or parts that have one."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_texts_in, value))
        case {"text": str(text)}:
            return text
        case _:
            return ""


def _error_in(data: Any) -> Any:
    """Return the error that a server writes in the place of an answer, in one of several shapes; None if it is none."""
    if isinstance(data, list) and data:
        return _error_in(data[0])
    if not isinstance(data, dict):
        return None
    if data.get("error") or data.get("object") == "error":
        return data
    if data.get("choices"):
        return None
    return data if any(data.get(key) for key in ("message", "detail", "errors")) else None


def read_parts(given: Any) -> list[CallPart]:
    """Read the calls of a message or a chunk. What is no call is read as one without a name, so that it is reported."""
    entries = given if isinstance(given, list) else [given] if given else []
    return [_call_part(entry) for entry in entries if entry is not None]


def _call_part(entry: Any) -> CallPart:
    try:
        return msgspec.convert(entry, CallPart)
    except msgspec.ValidationError:
        return CallPart(function=Function(arguments=json.dumps(entry)))


def text_of(content: Any) -> str:
    """Return the text of a content: a text, or a list of parts, of which those that are text count."""
    match content:
        case str():
            return content
        case list():
            return "".join(map(text_of, content))
        case {"type": "text" | "output_text", "text": str(text)}:
            return text
        case bool():
            return ""
        case int() | float():
            return json.dumps(content)
        case _:
            return ""


def read_usage(usage: Any) -> Usage | None:
    """Read what an endpoint says that it used; None if that is nothing, or no numbers."""
    try:
        counts = msgspec.convert(usage, Counts)
    except msgspec.ValidationError:
        return None
    if counts.prompt_tokens is None or counts.completion_tokens is None:
        return None
    return Usage(max(0, counts.prompt_tokens), max(0, counts.completion_tokens), max(0, counts.cached))


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


NO_TOOLS = "Tools cannot be used now. Where one would be needed, say so; do not pretend to have used one."


def write_request(
    request: ChatRequest,
    model: str,
    fields: Collection[str],
    origin: str = "",
    omitted: Collection[str] = (),
    prompt_cache: PromptCache = "automatic",
) -> bytes:
    """Write the body of a request, with those of the optional `fields` that are given; see `dialects.py`.

    It is written as every strict endpoint accepts it. `origin` names the endpoint as answers do, and `omitted` what it
    does not take of its own data and of other endpoints' calls: see `returned.py`.
    """
    offered = [tool.name for tool in request.tools] if "tools" in fields else []
    foreign_calls = FOREIGN_CALLS not in omitted
    written = canonical(request.messages, offered, origin, foreign_calls=foreign_calls)
    messages = [_message(without_data(m, omitted)) for m in written]
    if request.tools and "tools" not in fields:
        messages = _with_note(messages, NO_TOOLS)
    body: JsonObject = {"model": model, "messages": messages}
    if "stream" in fields:
        body["stream"] = True
    if "stream_options" in fields:
        body["stream_options"] = {"include_usage": True}
    if "tools" in fields:
        body["tools"] = [_tool(t) for t in request.tools]
    if "temperature" in fields:
        body["temperature"] = request.temperature
    for limit in ("max_tokens", "max_completion_tokens"):
        if limit in fields:
            body[limit] = request.max_tokens
    ask_to_cache(body, prompt_cache, request.thread_id)
    return msgspec.json.encode(body)


def _with_note(messages: list[JsonObject], note: str) -> list[JsonObject]:
    """Add a note to the instructions, which come first if there are any."""
    if messages and messages[0]["role"] == "system":
        first, *rest = messages
        return [{**first, "content": f"{first['content']}\n\n{note}"}, *rest]
    return [{"role": "system", "content": note}, *messages]


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
