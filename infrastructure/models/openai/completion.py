"""Chat completions as they go over the wire: what is sent, and the shapes that come back.

Servers differ in what they leave out, so nearly everything is optional here; `answer.py` decides what it means.
"""

import json
import re
from typing import Any

import msgspec
from msgspec import Struct, field

from domain.json import JsonObject
from domain.models.chat import AnswerMalformed, Usage
from infrastructure.models.openai.provider_data import set_apart

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
    """A tool call, or a piece of one. `extra` holds all else: see `provider_data.py`."""

    index: Any = None
    id: Any = None
    function: Function | None = None
    custom: Custom | None = None
    extra: JsonObject | None = None


class Part(Struct):
    """A message, or what a chunk adds to it. `extra` holds all else: see `provider_data.py`.

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


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def with_pairs(text: str) -> str:
    """Put halves together that belong together. A lone one stays."""
    return text if text.isascii() else _PAIR.sub(_whole, text)


class PairedText:
    """Takes pieces of a text and gives them back with whole characters: a first half waits for the second."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._half = ""

    def add(self, piece: str) -> str:
        """Return what can be shown by now."""
        if not piece:
            return ""
        text = with_pairs(self._half + piece)
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        return text[:-1] if self._half else text

    def end(self) -> str:
        """Return a half whose other half did not come."""
        half, self._half = self._half, ""
        return half


def _whole(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
