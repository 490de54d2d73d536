"""Which fields of its own messages an endpoint does not take back, read from the words of its refusal.

What an endpoint says beyond OpenAI's protocol is returned to it: Gemini and DeepSeek refuse a prompt without it. Others
refuse a prompt with it, though they sent it themselves: Groq its `reasoning`, some gateways whatever they add. So do
a few with the `name` beside a tool's result, which others demand.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from domain.chat import ChatMessage
from infrastructure.models.rejections import is_not_taken, statements, texts

NAME = "name"
_MESSAGE = re.compile(r"message", re.IGNORECASE)
_ONLY_OTHERS = re.compile(r"\bonly\b.*\bcan have\b", re.IGNORECASE)


def sent_fields(messages: Sequence[ChatMessage], origin: str) -> frozenset[str]:
    """Return the fields beyond the protocol's, and `name`, that messages of a prompt for an endpoint carry."""
    own = [message for message in messages if message.origin == origin]
    parts = [part for message in own for part in (message.extra, *(call.extra for call in message.tool_calls))]
    named = {NAME for message in messages if message.role == "tool"}
    return frozenset(named.union(*parts))


def refused_field(body: str, sent: Collection[str]) -> str | None:
    """Return the field of a message that a refusal is about, of those that were `sent`; None if it is about others."""
    said = [*_located(body), *statements(body)]
    for field in sorted(sent, key=lambda name: name == NAME):
        named = re.compile(rf"(?<!\w){re.escape(field)}(?!\w)")
        for statement in said:
            if not named.search(statement) or (field == NAME and not _MESSAGE.search(statement)):
                continue
            if is_not_taken(statement) or _ONLY_OTHERS.search(statement):
                return field
    return None


def _located(body: str) -> Iterator[str]:
    """Yield what is said of a place within the messages, as FastAPI and pydantic say it: `loc` beside `msg`."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return
    yield from _within(found, 8)


def _within(found: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    match found:
        case {"loc": list(where)} if "messages" in where:
            yield f"message {where[-1]}: {' '.join(texts({**found, 'loc': None}))}"
        case dict():
            for value in found.values():
                yield from _within(value, depth - 1)
        case list():
            for item in found:
                yield from _within(item, depth - 1)
