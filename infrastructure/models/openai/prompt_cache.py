"""How an endpoint is told to cache what a prompt begins with, where it does not do so by itself.

OpenAI, DeepSeek, Groq, xAI, vLLM and llama.cpp do. `breakpoints`: Claude models behind OpenRouter, LiteLLM and other
gateways cache up to parts that `cache_control` marks, four of them at most. `key`: OpenAI and Mistral look for a
prompt's beginning where prompts with the same `prompt_cache_key` went; it makes hits likelier.
"""

from collections.abc import MutableMapping
from typing import Any, Literal, TypeAlias

from domain.ids import ThreadId

PromptCache: TypeAlias = Literal["automatic", "breakpoints", "key"]


def ask_to_cache(body: MutableMapping[str, Any], how: PromptCache, thread_id: ThreadId | None) -> None:
    """Write into the body of a request what the endpoint needs."""
    if how == "key" and thread_id is not None:
        body["prompt_cache_key"] = str(thread_id)
    if how == "breakpoints":
        for place in _ends(body["messages"]):
            message = body["messages"][place]
            part = {"type": "text", "text": message["content"], "cache_control": {"type": "ephemeral"}}
            message["content"] = [part]


def _ends(messages: list[dict[str, Any]]) -> set[int]:
    """Find where stable parts of a prompt end: instructions with tools, what was said before this turn, and all of it.

    The next turn's prompt goes on after the second one, the next of this turn after the third. Empty parts cannot be
    marked.
    """
    asked = max((place for place, message in enumerate(messages) if message["role"] == "user"), default=0)
    system = [0] if messages and messages[0]["role"] == "system" else []
    said = [place for place in range(asked) if messages[place]["content"]][-1:]
    last = [place for place in range(len(messages)) if messages[place]["content"]][-1:]
    return {place for place in (*system, *said, *last) if messages[place]["content"]}
