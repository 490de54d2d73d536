"""The shapes of OpenAI's chat completions as endpoints send them: whole, or in chunks with deltas.

Servers differ in what they leave out, so nearly every field is optional here. `answer.py` decides what that means.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from domain.errors import InvalidInput
from domain.json import MAX_DEPTH, JsonObject
from domain.json_scan import check_items, read_integer
from domain.models.chat import AnswerMalformed, AnswerTooLarge, ModelError, Usage
from infrastructure.models.openai.provider_data import CALL_FIELDS, extra_of

E = TypeVar("E", bound=ModelError)

_USAGE = re.compile(r'(?<!\\)"usage"\s*+:\s*+(?=\{)')
"""Where a usage begins. Within a JSON string its quotes would be escaped."""

MAX_DOCUMENT_BYTES = 2 * 1024 * 1024
"""Bytes of one JSON document: a whole answer, or one event of a streamed one."""

MAX_USAGE_CHARS = 4_000

MAX_USAGES = 4
"""Usages that are tried in an answer that cannot be parsed, the last ones."""

_JSON = json.JSONDecoder()

_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "thoughts")
"""Fields in which endpoints send the model's reasoning. Where there are several, they hold the same text."""

_CACHED_FIELDS = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens")
"""Cached tokens of the prompt as DeepSeek, some gateways to Anthropic, and Moonshot report them. Most endpoints report
them in `prompt_tokens_details`."""


class ToolCallPart(Struct):
    """A tool call, or a fragment of one. `extra` holds the fields beyond the protocol: see `provider_data.py`."""

    index: int | None = None
    label: str = ""
    name: str = ""
    arguments: str = ""
    extra: JsonObject = {}


class Choice(Struct):
    """One of the answers; requests ask for one only. `message` is a whole one, `delta` a part of a streamed one."""

    index: Any = None
    message: JsonObject | None = None
    delta: JsonObject | None = None
    finish_reason: Any = None


class Completion(Struct):
    """A whole answer, or one chunk of a streamed one. `error` is how a server fails after a status 200.

    `usage` is not validated here but by `read_usage`: a bad one does not spoil the answer. `has_output`: the model
    wrote something, in whatever field. `thoughts` is the reasoning among that.
    """

    choices: list[Choice | None] | None = field(default_factory=list)
    usage: Any = None
    model: Any = None
    error: Any = None
    has_output: bool = False
    thoughts: str = ""


def read_completion(text: str | bytes) -> Completion:
    """Parse an answer or a chunk of one. Raise `AnswerMalformed`, with the usage if there is one, for anything else.

    The standard library's parser is used because it accepts lone surrogates: some servers write them where they cut a
    text within a character.
    """
    try:
        data = _parsed(text)
        if (error := _error_in(data)) is not None:
            return Completion(usage=data.get("usage") if isinstance(data, dict) else None, error=error)
        completion = msgspec.convert(data, Completion)
        choices = [choice for choice in completion.choices or () if choice]
        messages = [message for choice in choices for message in (choice.delta, choice.message) if message]
        written = (value for each in messages for key, value in each.items() if key not in {"role", "extra"})
        completion.has_output = any(written)
        completion.thoughts = _thoughts(messages)
    except InvalidInput as error:
        too_large = AnswerTooLarge(f"The model's answer is too large to be parsed: it {error.why}.")
        raise _with_content(too_large, text) from error
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        malformed = AnswerMalformed(f"The model's answer is not a chat completion: {error}")
        raise _with_content(malformed, text) from error
    return completion


def _parsed(text: str | bytes) -> Any:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise InvalidInput("answer", f"has more than {MAX_DOCUMENT_BYTES:,} bytes in one document")
    check_items(text, "answer")
    return json.loads(text, parse_int=read_integer)


def _with_content(error: E, text: str | bytes) -> E:
    """Note in an error what was written, and the usage in it: the answer was paid for."""
    error.written = text if isinstance(text, str) else text.decode("utf-8", "replace")
    error.usage = usage_within(error.written)
    return error


def _thoughts(messages: list[JsonObject]) -> str:
    """Return the reasoning in messages: in a field of its own, or among the parts of its content."""
    found = []
    for message in messages:
        found.append(next((text for key in _REASONING_FIELDS if (text := _texts_in(message.get(key)))), ""))
        content = message.get("content")
        entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
        found += [_texts_in(entry[key]) for entry in entries for key in _REASONING_FIELDS if key in entry]
    return "".join(found)


def _texts_in(value: Any) -> str:
    """Return the text of reasoning: a text, or parts that have one."""
    found = list[str]()
    for part in _parts(value):
        match part:
            case str(text) | {"text": str(text)}:
                found.append(text)
    return "".join(found)


def _parts(value: Any) -> Iterator[Any]:
    """Yield the parts of lists within lists in their order. Their texts are joined once, not on every level.

    Raises `RecursionError`.
    """
    todo = [(value, 0)]
    while todo:
        part, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if isinstance(part, list):
            todo += [(inner, depth + 1) for inner in reversed(part)]
        else:
            yield part


def _error_in(data: Any) -> Any:
    """Return the error that a server sends instead of an answer, in one of several shapes; None if it is no error."""
    if isinstance(data, list) and data:
        return _error_in(data[0])
    if not isinstance(data, dict):
        return None
    explains = not data.get("choices") and any(map(data.get, ("message", "detail", "errors")))
    return data if data.get("error") or data.get("object") == "error" or explains else None


def read_tool_calls(given: Any) -> list[ToolCallPart]:
    """Read the calls of a message or a delta. What is no call becomes one without a name, so that it is reported."""
    entries = given if isinstance(given, list) else [given] if given else []
    return [_read_tool_call(entry) for entry in entries if entry is not None]


def _read_tool_call(entry: Any) -> ToolCallPart:
    """Read a call. Some endpoints write calls of all tools as `custom` ones, whose `input` may be any text."""
    function, custom = (entry.get("function"), entry.get("custom")) if isinstance(entry, dict) else ("", "")
    if not (isinstance(function, dict | None) and isinstance(custom, dict | None)):
        return ToolCallPart(arguments=json.dumps(entry))
    name = (custom or {} if function is None else function).get("name")
    return ToolCallPart(
        index=_index(entry.get("index")),
        label=_as_text(entry.get("id")),
        name=name if isinstance(name, str) else "",
        arguments=_as_text((function or {}).get("arguments") if custom is None else custom.get("input")),
        extra=extra_of(entry, CALL_FIELDS),
    )


def _index(given: Any) -> int | None:
    """Read the index of a call, which may be written as a text or a fraction."""
    try:
        return None if given is None else int(given)
    except (ValueError, TypeError, OverflowError):
        return None


def _as_text(given: Any) -> str:
    """Return arguments or a label as text. Some endpoints send an object: what is not text is written as JSON."""
    return given if isinstance(given, str) else "" if given is None else json.dumps(given)


def text_of(content: Any) -> str:
    """Return the text of a content: a text, or a list of parts, of which the text parts count."""
    found = list[str]()
    for part in _parts(content):
        match part:
            case str(text) | {"type": "text" | "output_text", "text": str(text)}:
                found.append(text)
            case int() | float() if not isinstance(part, bool):
                found.append(json.dumps(part))
    return "".join(found)


def read_usage(usage: Any) -> Usage | None:
    """Read the usage that an endpoint reports; None if there is none, or it has no numbers."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _number(usage.get("prompt_tokens")), _number(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = [details.get("cached_tokens") if isinstance(details, dict) else None, *map(usage.get, _CACHED_FIELDS)]
    return Usage(prompt, completion, max(_number(value) or 0 for value in cached))


def _number(value: Any) -> int | None:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else None


def usage_within(text: str) -> Usage | None:
    """Find the last usage in an answer, or a chunk of one, that cannot be parsed."""
    for place in [found.end() for found in _USAGE.finditer(text)][: -MAX_USAGES - 1 : -1]:
        try:
            usage, _ = _JSON.raw_decode(text[place : place + MAX_USAGE_CHARS])
        except (ValueError, RecursionError):
            continue
        if found := read_usage(usage):
            return found
    return None
