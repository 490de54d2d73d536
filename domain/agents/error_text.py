"""Errors of an agent's code as text: short and storable, even if the error's own `__str__` fails."""

import sysconfig
import traceback
from pathlib import Path

from domain.errors import ThreadfoldError, UserCodeFailed
from domain.json import storable_text

MAX_ERROR_CHARACTERS = 1_000
"""Maximum characters of an error's text."""

MAX_ANSWER_CHARACTERS = 300
"""Maximum characters of a model's answer in an error."""

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


def failure_text(error: BaseException, model_answer: str = "") -> str:
    """Return an error of an agent's code with its place in that code, such as `(in classify, desk.py line 17)`.

    `model_answer` is what a model had answered to that code: errors of parsing do not quote what they could not parse.
    Errors of our own name what to do, and have no place.
    """
    text = error_text(error)
    if isinstance(error, ThreadfoldError):
        return text
    more = _place_of(error)
    if model_answer:
        more += f" The model's last answer was: {shortened(model_answer, MAX_ANSWER_CHARACTERS)}"
    return text[: MAX_ERROR_CHARACTERS - len(more)] + more


def _place_of(error: BaseException) -> str:
    """Return the innermost function of the agent's code, " (in NAME, FILE line NUMBER)"; "" if there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = Path(frame.f_code.co_filename)
        if not any(path.is_relative_to(folder) for folder in _NOT_THE_AGENTS):
            return storable_text(f" (in {frame.f_code.co_name}, {path.name} line {line})")
    return ""


_ROOT = Path(__file__).parents[2]

_NOT_THE_AGENTS = (
    *(_ROOT / name for name in ("domain", "infrastructure", "projections", "api", "threadfold")),
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)
"""Folders of this program and of libraries."""


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
