"""Errors of an agent's code as text: short and storable, even if the error's own `__str__` fails."""

from domain.errors import UserCodeFailed
from domain.json import storable_text

MAX_ERROR_CHARACTERS = 1_000
"""Maximum characters of an error's text."""

MAX_SHOWN_ERRORS = 3
"""Maximum number of a group's errors that are shown."""


def error_text(error: BaseException, limit: int = MAX_ERROR_CHARACTERS, *, depth: int = 2) -> str:
    """Return an error's type and message, such as `ValueError: too many`; for a group, also the errors in it."""
    if isinstance(error, UserCodeFailed):
        return message_of(error, limit)
    text = f"{_kind(error)}: {message_of(error, limit)}"
    if isinstance(error, BaseExceptionGroup) and depth:
        parts = (error_text(part, limit, depth=depth - 1) for part in error.exceptions[:MAX_SHOWN_ERRORS])
        text += f": {'; '.join(parts)}"
    return text[:limit]


def message_of(error: BaseException, limit: int = MAX_ERROR_CHARACTERS) -> str:
    """Return an error's message, cut to `limit` characters. Never raises."""
    try:
        return storable_text(str(error)[:limit])
    except BaseException as broken:  # noqa: BLE001  (`__str__` may be the user's code)
        return f"[its message cannot be read: __str__ raised {_kind(broken)}]"


def shortened(text: str, limit: int) -> str:
    """Return a text as one line of at most `limit` characters that can be stored."""
    line = " ".join(storable_text(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _kind(error: BaseException) -> str:
    return storable_text(type(error).__name__)[:100]
