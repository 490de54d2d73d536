"""What an endpoint's refusals mean, in the terms of the domain; with the server's own words, shortened."""

import json
from typing import Any

from domain.chat import ModelError, ModelOverloaded, ModelRefused, ModelRejectedRequest, ModelUnknown
from domain.json import storable_text

MAX_WORDS = 300


def failure_of(status: int, words: str) -> ModelError:
    """Return the error that a response's status stands for. `words` is what the server said about it."""
    kind = _kind(status)
    return kind(f"{kind()} It said: HTTP {status} {words}".strip())


def server_words(body: bytes, secret: str) -> str:
    """Return what an error's body says to people, without the secret; nothing where it is HTML or empty."""
    text = body.decode("utf-8", "replace").strip()
    try:
        return message_of(json.loads(text), secret)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else shortened(without(secret, text))


def message_of(error: Any, secret: str) -> str:
    """Return the message within an error object: an object with a message, a text, or anything. Not the secret."""
    while isinstance(error, dict):
        inner = next((error[key] for key in ("error", "message", "detail") if error.get(key)), None)
        if inner is None:
            break
        error = inner
    return shortened(without(secret, error if isinstance(error, str) else json.dumps(error)))


def without(secret: str, text: str) -> str:
    """Return a text with the secret blotted out, before anything else cuts it into parts."""
    return text.replace(secret, "[key]") if secret else text


def shortened(text: str, limit: int = MAX_WORDS) -> str:
    """Return a text on one line, of at most `limit` characters, fit to be stored."""
    line = " ".join(storable_text(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _kind(status: int) -> type[ModelError]:
    match status:
        case 401 | 403:
            return ModelRefused
        case 404 | 301 | 302 | 303 | 307 | 308:
            return ModelUnknown
        case 408 | 429:
            return ModelOverloaded
        case _:
            return ModelOverloaded if status >= 500 else ModelRejectedRequest  # noqa: PLR2004
