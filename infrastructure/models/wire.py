"""Chat completions as they go over the wire: what is sent, and the shapes that come back.

Servers differ in what they leave out, so nearly everything is optional here; `assembly.py` decides what it means.
"""

import json
from typing import Any

import msgspec
from msgspec import Struct, field

from domain.chat import AnswerMalformed, ChatMessage, ChatRequest, ToolSpec
from domain.json import JsonObject
from infrastructure.models.prompt_cache import PromptCache, ask_to_cache


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


class Choice(Struct):
    """One of the answers; we ask for one only. `message` comes whole, `delta` comes streamed."""

    index: int | None = None
    message: Part | None = None
    delta: Part | None = None
    finish_reason: str | None = None


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
        return msgspec.convert(json.loads(text), Completion)
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise AnswerMalformed(f"The model's answer is not a chat completion: {error}") from error


def read_counts(usage: Any) -> Counts | None:
    """Read what an endpoint says that it used; None if that is nothing, or no numbers."""
    try:
        return msgspec.convert(usage, Counts)
    except msgspec.ValidationError:
        return None


def write_request(
    request: ChatRequest, model: str, *, stream: bool, limit_field: str, prompt_cache: PromptCache = "automatic"
) -> bytes:
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
    ask_to_cache(body, prompt_cache, request.thread_id)
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
