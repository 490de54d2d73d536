"""The request: a chat completion as every strict endpoint accepts it, and how its prefix is cached."""

from collections.abc import Collection, MutableMapping
from typing import Any, Literal, TypeAlias

import msgspec

from domain.ids import ThreadId
from domain.json import JsonObject
from domain.models.chat import ChatMessage, ChatRequest
from domain.prompt.canonical import canonical
from infrastructure.models.openai.provider_data import without_data
from infrastructure.models.openai.refusals import FOREIGN_CALLS
from infrastructure.models.openai.response_format import response_format

PromptCache: TypeAlias = Literal["automatic", "breakpoints", "key"]
"""How an endpoint is told to cache the beginning of a prompt.

`automatic`: it does so by itself, as OpenAI, DeepSeek, Groq, xAI, vLLM and llama.cpp do. `breakpoints`: Claude models
behind OpenRouter, LiteLLM and other gateways cache up to parts that `cache_control` marks, at most four. `key`: OpenAI
and Mistral send prompts with the same `prompt_cache_key` to the same servers, which makes hits likelier.
"""

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

    `origin` names the endpoint as answers do. `omitted` are provider-specific fields that it does not take back, and
    `FOREIGN_CALLS` if it refuses calls of other models; see `refusals.py`.
    """
    offered = [tool.name for tool in request.tools] if "tools" in fields else []
    written = canonical(request.messages, offered, origin, foreign_calls=FOREIGN_CALLS not in omitted)
    messages = [_message(without_data(m, omitted)) for m in written]
    if request.tools and "tools" not in fields:
        messages = _with_note(messages, NO_TOOLS)
    body: JsonObject = {"model": model, "messages": messages}
    optional = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": tool} for tool in request.tools],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "max_completion_tokens": request.max_tokens,
        "response_format": response_format(request.output, schema="json_schema" in fields),
    }
    body |= {name: value for name, value in optional.items() if name in fields}
    _ask_to_cache(body, prompt_cache, request.thread_id)
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


def _ask_to_cache(body: MutableMapping[str, Any], how: PromptCache, thread_id: ThreadId | None) -> None:
    """Add the fields that make the endpoint cache."""
    if how == "key" and thread_id is not None:
        body["prompt_cache_key"] = str(thread_id)
    if how == "breakpoints":
        for place in _cache_breakpoints(body["messages"]):
            message = body["messages"][place]
            part = {"type": "text", "text": message["content"], "cache_control": {"type": "ephemeral"}}
            message["content"] = [part]


def _cache_breakpoints(messages: list[dict[str, Any]]) -> set[int]:
    """Return the messages that end a stable part: instructions and tools, what precedes this turn, the whole prompt.

    The next turn's prompt repeats the first two, the next prompt of this turn all three. Empty messages cannot be
    marked.
    """
    asked = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=0)
    system = [0] if messages and messages[0]["role"] == "system" else []
    said = [place for place in range(asked) if messages[place]["content"]][-1:]
    last = [place for place in range(len(messages)) if messages[place]["content"]][-1:]
    return {place for place in (*system, *said, *last) if messages[place]["content"]}
