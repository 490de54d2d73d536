"""The arguments of a tool call, read from what the model wrote.

No arguments at all are none: an empty text, `null`, an empty list. A Markdown fence around the object, an object that
is written as a JSON string, an empty object before it (some gateways begin with one), and the same object twice have
one meaning each; see also `lenient_json.py`. Anything else is a fault, which is told to the model.
"""

import json
import re
from typing import Any

from msgspec import Struct

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import JsonObject, check_json, storable_text
from domain.thread.size_limits import MAX_ARGUMENTS
from infrastructure.models.openai.lenient_json import NotJsonError, read_json, read_values

MAX_WRITTEN = 16_384
"""Characters that are kept of a text that is no JSON."""

MAX_MENDED = 16_384
"""Characters of a text that is no JSON beyond which only control characters are understood: the rest takes time."""

MAX_FAULT = 400

LEVELS = 3
"""How often an object may have been written into a JSON string."""

_FENCE = re.compile(r"\A```(?:[A-Za-z][\w+-]*(?=\s))?|```\Z")
_BLANK = "\ufeff\u200b"

_NOTHING = ("null", "None")
_KINDS: dict[type, str] = {list: "an array", str: "a text", bool: "a boolean", int: "a number", float: "a number"}


class Arguments(Struct, frozen=True):
    """Arguments, and what the model wrote where that is not their JSON. With a `fault`, they could not be read."""

    values: JsonObject
    written: str = ""
    fault: str = ""


def read_arguments(text: str, *, cut: bool = False) -> Arguments:
    """Read the arguments of a call. `cut`: the answer was broken off after this text, as by its limit of tokens."""
    if cut and not _bare(text):
        return Arguments({}, "", "The answer was broken off before this call had any arguments.")
    try:
        values, strict = _object(text)
        _check(values)
    except (NotJsonError, InvalidInput) as error:
        within = (
            "The answer was broken off within the arguments of this call" if cut else "The arguments cannot be read"
        )
        return Arguments({}, kept(text), shortened(f"{within}: {error}", MAX_FAULT))
    return Arguments(values, "" if strict else kept(text))


def _object(text: str) -> tuple[JsonObject, bool]:
    """Return the object, and whether the text is its JSON."""
    try:
        value, strict = read_json(text)
    except (ValueError, RecursionError):
        return _mended(text, LEVELS), False
    return (value, strict) if isinstance(value, dict) else (_mended(text, LEVELS), False)


def _mended(text: str, levels: int) -> JsonObject:
    inner = _bare(text)
    values = read_values(inner) if len(inner) <= MAX_MENDED else [_long(inner)]
    value: Any = next(filter(None, values), values[0] if values else None)
    if len({json.dumps(value) for value in values if value}) > 1:
        raise NotJsonError("expected one JSON object, found several", inner, 0)
    match value:
        case None | []:
            return {}
        case dict():
            return value
        case str() if levels and (not (within := _bare(value)) or within[0] in "{[\"'" or within in _NOTHING):
            return _mended(value, levels - 1)
    raise NotJsonError(f"expected a JSON object, found {_KINDS[type(value)]}", inner, 0)


def _long(text: str) -> Any:
    """Read a long text by the standard library."""
    try:
        return read_json(text)[0]
    except json.JSONDecodeError as error:
        raise NotJsonError(error.msg, text, error.pos) from error
    except RecursionError as error:
        raise NotJsonError("it is nested too deeply", text, 0) from error
    except ValueError as error:
        raise NotJsonError(str(error), text, 0) from error


def _bare(text: str) -> str:
    """Leave out what stands around a value and says nothing: blanks, a byte order mark, a fence."""
    return _FENCE.sub("", text.strip().strip(_BLANK).strip()).strip()


def _check(values: JsonObject) -> None:
    check_json(values, "arguments")
    size = len(json.dumps(values, ensure_ascii=False, separators=(",", ":")))
    if size > MAX_ARGUMENTS:
        raise InvalidInput("arguments", f"may take {MAX_ARGUMENTS:,} characters as JSON, not {size:,}")


def kept(text: str) -> str:
    """Return what is kept of a text that a model wrote."""
    text = storable_text(text.strip())
    return text if len(text) <= MAX_WRITTEN else f"{text[:MAX_WRITTEN]}\n[cut: {len(text):,} characters in all]"
