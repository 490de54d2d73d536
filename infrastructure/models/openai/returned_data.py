"""What an endpoint says about its own data that comes back to it, and about calls that came from elsewhere.

Some endpoints send fields that they do not take in a request: then those are left out. Others refuse calls of tools
without the reasoning or the signature of their own that belongs to them; another model's calls have none. Then these
calls are told as text. And the name beside a tool's result is demanded by some (Gemini, GPT-OSS's template), refused by
others (xAI). All of this is known by a refusal, remembered as `Dialects` does, and costs one request.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from msgspec.structs import replace

from domain.models.chat import ChatMessage, ChatRequest
from infrastructure.models.openai.refusals import NOT_TAKEN

FOREIGN_CALLS = "calls of other models"
"""In the place of a field's name: calls without the endpoint's own data."""

DATA = "data:"
"""Goes before the names of an endpoint's own fields, which no other endpoint gets."""

NAME = "name"
_NAMED = re.compile(r"(?<!\w)name(?!\w)")
_IN_MESSAGES = re.compile(r"message", re.IGNORECASE)
_ONLY_OTHERS = re.compile(r"\bonly\b.*\bcan have\b", re.IGNORECASE)

_REMOVE = re.compile(r"\bremove\b", re.IGNORECASE)

_MISSING = re.compile(
    r"\bmissing\b|\bmust (?:be|include|have|contain)\b|\brequired?s?\b|\bwithout\b|\bexpected\b", re.IGNORECASE
)
_THOUGHTS = re.compile(r"reasoning|thought|thinking", re.IGNORECASE)


def refused_data(body: str, request: ChatRequest, origin: str, omitted: Collection[str]) -> str | None:
    """Return the field that a refusal is about, behind `DATA`, unless it is `omitted` already.

    It is one of the endpoint's own, or the name beside the result of a tool.
    """
    names = sorted(name.removeprefix(DATA) for name in own_data(request, origin) - set(omitted))
    for statement in _statements(body) if names else ():
        if NOT_TAKEN.search(statement) or _REMOVE.search(statement):
            named = (name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", statement))
            if (name := next(named, None)) is not None:
                return DATA + name
    if DATA + NAME not in omitted and any(message.role == "tool" for message in request.messages):
        return DATA + NAME if any(map(_refuses_names, _statements(body))) else None
    return None


def own_data(request: ChatRequest, origin: str) -> frozenset[str]:
    """Return the fields of the endpoint's own that go back to it, behind `DATA`."""
    own = [message for message in request.messages if message.origin == origin]
    extras = [extra for message in own for extra in (message.extra, *(call.extra for call in message.tool_calls))]
    return frozenset(DATA + name for extra in extras for name in extra)


def _refuses_names(statement: str) -> bool:
    """Say whether a statement is about names of messages, and not of tools or models."""
    about_names = _NAMED.search(statement) and _IN_MESSAGES.search(statement)
    return bool(about_names and (NOT_TAKEN.search(statement) or _ONLY_OTHERS.search(statement)))


def refuses_foreign_calls(body: str, request: ChatRequest, origin: str, omitted: Collection[str]) -> bool:
    """Say whether a refusal is about calls without the endpoint's own reasoning or signature, and there are some."""
    if FOREIGN_CALLS in omitted or not any(m.tool_calls and m.origin != origin for m in request.messages):
        return False
    return any(_MISSING.search(statement) and _THOUGHTS.search(statement) for statement in _statements(body))


def without_data(message: ChatMessage, omitted: Collection[str]) -> ChatMessage:
    """Leave out of a message what its endpoint does not take back."""
    names = {name.removeprefix(DATA) for name in omitted if name.startswith(DATA)}
    if not names:
        return message
    calls = tuple(replace(call, extra=_without(call.extra, names)) for call in message.tool_calls)
    name = None if NAME in names else message.name
    return replace(message, extra=_without(message.extra, names), tool_calls=calls, name=name)


def _without(extra: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name not in names}


def _statements(body: str) -> Iterator[str]:
    """Yield the texts of a refusal. Where an error names a place apart from its message, they stand together."""
    try:
        yield from _within(json.loads(body))
    except (ValueError, RecursionError):
        yield body


def _within(found: Any) -> Iterator[str]:
    match found:
        case str():
            yield found
        case list():
            for item in found:
                yield from _within(item)
        case dict():
            if isinstance(found.get("loc"), list):
                yield f"{'.'.join(map(str, found['loc']))}: {found.get('msg') or found.get('message')}"
            if isinstance(found.get("param"), str):
                yield f"{found['param']}: {found.get('message')}"
            for value in found.values():
                yield from _within(value)
