"""Errors of an endpoint as errors of the domain, with the beginning of the server's own message."""

import json
from typing import Any

from domain.agents.error_text import shortened
from domain.models.chat import ModelError, ModelOverloaded, ModelRefused, ModelRejectedRequest, ModelUnknown

MAX_WORDS = 300
"""Characters of a server's message that an error contains."""

_ERRORS = range(400, 600)


def failure_of(status: int, words: str) -> ModelError:
    """Return the error for a response's status. `words` is the server's message."""
    kind = kind_of(status)
    return kind(f"{kind()} It said: HTTP {status} {words}".strip())


def server_words(body: bytes, secret: str) -> str:
    """Return the message in an error's body, without the secret; "" if the body is HTML or empty."""
    text = body.decode("utf-8", "replace").strip()
    try:
        return message_of(json.loads(text), secret)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else quoted(text, secret)


def message_of(error: Any, secret: str) -> str:
    """Return the message within an error: an object with a message, a text, a list, or any JSON. Not the secret."""
    while isinstance(error, dict | list) and (inner := _inner(error)) is not None:
        error = inner
    return quoted(error if isinstance(error, str) else json.dumps(error), secret)


def status_of(error: Any) -> int | None:
    """Return the HTTP status that an error names within an answer of status 200; None if it names none."""
    while isinstance(error, dict | list):
        if isinstance(error, dict):
            for status in map(error.get, ("code", "status", "status_code")):
                number = int(status) if isinstance(status, str) and status.isdecimal() else status
                if isinstance(number, int) and number in _ERRORS:
                    return number
        error = _inner(error)
    return None


def _inner(error: dict[str, Any] | list[Any]) -> Any:
    """Return the most specific part of an error; None if there is none, or it is a list of several."""
    if isinstance(error, list):
        return error[0] if len(error) == 1 else None
    return next((error[key] for key in ("error", "errors", "message", "detail") if error.get(key)), None)


def quoted(text: str, secret: str) -> str:
    """Return the beginning of a server's text for an error, without the secret."""
    return shortened(text.replace(secret, "[key]") if secret else text, MAX_WORDS)


def kind_of(status: int) -> type[ModelError]:
    """Return the class of the error for a response's status."""
    match status:
        case 401 | 403:
            return ModelRefused
        case 404 | 301 | 302 | 303 | 307 | 308:
            return ModelUnknown
        case 408 | 429:
            return ModelOverloaded
        case _:
            return ModelOverloaded if status >= 500 else ModelRejectedRequest  # noqa: PLR2004
