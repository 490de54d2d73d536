"""Checks of the JSON that may enter the log: I-JSON (RFC 7493) that PostgreSQL can query, too.

Other values are refused before anything is appended, and the error names the field. So a stored event encodes, hashes
and verifies the same way in every language.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from domain.errors import InvalidInput

Json: TypeAlias = Any
"""None, bool, int, float, str, list or dict with string keys; recursively so."""

JsonObject: TypeAlias = dict[str, Json]

MAX_DEPTH = 64
MAX_INTEGER = 2**64 - 1
MIN_INTEGER = -(2**63)

_UNSTORABLE = dict.fromkeys((0, *range(0xD800, 0xE000)), "\ufffd")


def check_json(value: Json, field: str, depth: int = MAX_DEPTH) -> None:
    """Raise `InvalidInput`, with a path inside `field`, unless `value` can be stored unchanged.

    `depth` is how many levels of it may be nested.
    """
    match value:
        case None | bool():
            return
        case str():
            check_text(value, field)
        case int():
            _check_integer(value, field)
        case float():
            if not math.isfinite(value):
                raise InvalidInput(field, "numbers must be finite, not NaN or Infinity")
        case dict() | list() | tuple():
            if depth == 0:
                raise InvalidInput(field, f"must not be nested deeper than {MAX_DEPTH} levels")
            _check_items(value, field, depth - 1)
        case _:
            raise InvalidInput(field, f"must be a JSON value, not of the type {type(value).__name__}")


def check_fields(struct: Struct, field: str = "", *, without: str = "") -> None:
    """Check a struct's fields, except the one named `without`, like `check_json`. Raises `InvalidInput`.

    Fields of plain types are not converted to JSON first. `field` is a prefix for the fields' names, including its dot.
    """
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value and name != without:  # None, False, 0 and what is empty can be stored
            _check_part(value, field, name)


def _check_part(value: object, before: str, name: str | int) -> None:
    """Check a field's value. To save time, the path is built only for errors and for nested values."""
    match value:
        case str():
            if "\0" in value or not value.isascii():
                check_text(value, f"{before}{name}")
        case None | bool() | UUID():
            return
        case int():
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                _check_integer(value, f"{before}{name}")
        case tuple():
            for index, item in enumerate(value):
                _check_part(item, f"{before}{name}.", index)
        case Struct():
            check_fields(value, f"{before}{name}.")
        case _:
            check_json(msgspec.to_builtins(value), f"{before}{name}")


def check_text(text: str, field: str) -> None:
    """Raise `InvalidInput` unless `text` holds no NUL and no lone surrogate."""
    if "\0" in text:
        raise InvalidInput(field, "must not contain the character U+0000 (NUL)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(field, "must not contain a lone surrogate (U+D800 to U+DFFF)") from None


def storable_text(text: str) -> str:
    """Replace characters that cannot be stored by U+FFFD. For texts of models and tools, which cannot be corrected."""
    return text.translate(_UNSTORABLE) if "\0" in text or not text.isascii() else text


def copied(value: Json) -> Json:
    """Copy JSON deeply: changes of the copy do not affect the original."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def merge_patch(target: Mapping[str, Json], patch: Mapping[str, Json]) -> JsonObject:
    """Apply a JSON merge patch (RFC 7396): null removes a key, objects are merged, other values replace."""
    merged = dict(target)
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        elif isinstance(change, dict):
            base = merged.get(key)
            merged[key] = merge_patch(base if isinstance(base, dict) else {}, change)
        else:
            merged[key] = change
    return merged


def _check_integer(value: int, field: str) -> None:
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise InvalidInput(field, f"integers must be between {MIN_INTEGER} and {MAX_INTEGER}")


def _check_items(items: JsonObject | list[Json] | tuple[Json, ...], field: str, depth: int) -> None:
    if not isinstance(items, dict):
        for index, item in enumerate(items):
            check_json(item, f"{field}.{index}", depth)
        return
    for key, item in items.items():
        if not isinstance(key, str):
            raise InvalidInput(field, f"keys must be strings, not {type(key).__name__}")
        check_text(key, field)
        check_json(item, f"{field}.{key}", depth)
