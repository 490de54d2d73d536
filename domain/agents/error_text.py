"""Errors of an agent's code in words: short, storable, and whatever the error does when it is asked for them."""

from domain.errors import UserCodeFailed
from domain.json import storable_text

MAX_ERROR_CHARACTERS = 1_000
"""Characters of an error that are kept."""

MAX_SHOWN_ERRORS = 3
"""Errors of a group that are named."""


def error_text(error: BaseException, limit: int = MAX_ERROR_CHARACTERS, *, depth: int = 2) -> str:
    """Return the kind of an error and its message, such as `ValueError: too many`; of a group, what is in it, too."""
    if isinstance(error, UserCodeFailed):
        return message_of(error, limit)
    text = f"{_kind(error)}: {message_of(error, limit)}"
    if isinstance(error, BaseExceptionGroup) and depth:
        parts = (error_text(part, limit, depth=depth - 1) for part in error.exceptions[:MAX_SHOWN_ERRORS])
        text += f": {'; '.join(parts)}"
    return text[:limit]


def message_of(error: BaseException, limit: int = MAX_ERROR_CHARACTERS) -> str:
    """Return an error's own words, cut to a length. Never raises."""
    try:
        return storable_text(str(error)[:limit])
    except BaseException as broken:  # noqa: BLE001  (`__str__` is the user's code, too)
        return f"[its message cannot be read: __str__ raised {_kind(broken)}]"


def shortened(text: str, limit: int) -> str:
    """Return a text on one line, of at most `limit` characters, fit to be stored."""
    line = " ".join(storable_text(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _kind(error: BaseException) -> str:
    return storable_text(type(error).__name__)[:100]
