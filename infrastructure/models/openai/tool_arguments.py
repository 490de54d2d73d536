"""The arguments of a tool call, parsed from what the model wrote.

An empty text, `null` and an empty list are no arguments. What has one possible meaning is accepted: a Markdown fence
around the object, an object written as a JSON string, an empty object before it (some gateways begin with one), the
same object twice, and what `lenient_json.py` reads. Anything else is a fault, which the model is shown.
"""

import json
import re
from contextlib import suppress
from typing import Any, NoReturn

from msgspec import Struct

from domain.agents.error_text import shortened
from domain.errors import InvalidInput
from domain.json import JsonObject, check_json, storable_text
from domain.json_scan import check_items, read_integer
from domain.thread.size_limits import MAX_ARGUMENTS_CHARACTERS, check_json_size
from infrastructure.models.openai.lenient_json import NotJsonError, read_values

MAX_WRITTEN = 16_384
"""Characters that are stored of a text that is not JSON."""

MAX_LENIENT_CHARS = 16_384
"""A longer text may deviate from JSON by control characters only: the lenient reader would take too long."""

MAX_PARSED_CHARS = 6 * MAX_ARGUMENTS_CHARACTERS
"""Characters of arguments that are parsed: an escape such as `\\u00e9` takes six of them for one."""

MAX_FAULT = 400
"""Characters of a fault."""

MAX_STRING_LEVELS = 3
"""How many times an object may have been encoded as a JSON string."""

_FENCE = re.compile(r"\A```(?:[A-Za-z][\w+-]*(?=\s))?|```\Z")
_BLANK = "\ufeff\u200b"

_NULLS = ("null", "None")
_KINDS: dict[type, str] = {list: "an array", str: "a text", bool: "a boolean", int: "a number", float: "a number"}


class Arguments(Struct, frozen=True):
    """Arguments, and what the model wrote if that is not their JSON. With a `fault`, they could not be parsed."""

    values: JsonObject
    written: str = ""
    fault: str = ""


def read_arguments(text: str, *, cut: bool = False) -> Arguments:
    """Parse the arguments of a call. `cut`: the answer was cut off after this text, such as by its token limit."""
    if cut and not _unfenced(text):
        return Arguments({}, "", "The answer was broken off before this call had any arguments.")
    try:
        values, strict = _object(text)
        check_json(values, "arguments")
        check_json_size(values, "arguments", MAX_ARGUMENTS_CHARACTERS)
    except (NotJsonError, InvalidInput) as error:
        within = (
            "The answer was broken off within the arguments of this call" if cut else "The arguments cannot be read"
        )
        return Arguments({}, stored_text(text), shortened(f"{within}: {error}", MAX_FAULT))
    return Arguments(values, "" if strict else stored_text(text))


def _object(text: str) -> tuple[JsonObject, bool]:
    """Return the object, and whether the text is its JSON."""
    if len(text) > MAX_PARSED_CHARS:
        raise InvalidInput("arguments", f"may take {MAX_PARSED_CHARS:,} characters as written, not {len(text):,}")
    with suppress(ValueError, RecursionError):
        value, strict = _read_json(text)
        if isinstance(value, dict):
            return value, strict
    return _read_leniently(text, MAX_STRING_LEVELS), False


def _read_json(text: str) -> tuple[Any, bool]:
    """Parse JSON whose strings may hold control characters. Say whether it is strict JSON, without any.

    Raises a `ValueError`, such as for a key that is given twice, a `RecursionError`, or `InvalidInput`: too many items.
    """
    check_items(text, "arguments")
    try:
        return _STRICT.decode(text), True
    except ValueError:
        return _LOOSE.decode(text), False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_int=read_integer)
_LOOSE = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_int=read_integer, strict=False)


def _read_leniently(text: str, levels: int) -> JsonObject:
    inner = _unfenced(text)
    values = read_values(inner) if len(inner) <= MAX_LENIENT_CHARS else [_read_long(inner)]
    value: Any = next(filter(None, values), values[0] if values else None)
    if len({json.dumps(value) for value in values if value}) > 1:
        raise NotJsonError("expected one JSON object, found several", inner, 0)
    match value:
        case None | []:
            return {}
        case dict():
            return value
        case str() if levels and (not (within := _unfenced(value)) or within[0] in "{[\"'" or within in _NULLS):
            return _read_leniently(value, levels - 1)
    raise NotJsonError(f"expected a JSON object, found {_KINDS[type(value)]}", inner, 0)


def _read_long(text: str) -> Any:
    """Parse a long text with the standard library."""
    try:
        return _read_json(text)[0]
    except RecursionError as error:
        raise NotJsonError("it is nested too deeply", text, 0) from error
    except ValueError as error:  # mostly a JSONDecodeError, which says where
        raise NotJsonError(getattr(error, "msg", str(error)), text, getattr(error, "pos", 0)) from error


def _unfenced(text: str) -> str:
    """Remove blanks, a byte order mark and a fence around a value."""
    return _FENCE.sub("", text.strip().strip(_BLANK).strip()).strip()


def stored_text(text: str) -> str:
    """Return what is stored of a text that a model wrote."""
    text = storable_text(text.strip())
    return text if len(text) <= MAX_WRITTEN else f"{text[:MAX_WRITTEN]}\n[cut: {len(text):,} characters in all]"
