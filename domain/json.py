"""Checks of the JSON that may enter the log: I-JSON (RFC 7493) that PostgreSQL can query, too.

Other values are refused before anything is appended, and the error names the field. So a stored event encodes, hashes
and verifies the same way in every language.
"""

import math
import re
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

MAX_ITEMS = 20_000
"""Items in a JSON value, on all levels: an empty list of three characters takes 70 bytes in memory, and time in each of
a dozen places that check, copy or encode it."""

MAX_KEY_CHARACTERS = 500
"""Characters of a key: each error about a value repeats the keys above it."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def check_json(value: Json, field: str, depth: int = MAX_DEPTH, items: int = MAX_ITEMS) -> None:
    """Raise `InvalidInput`, with a path inside `field`, unless `value` can be stored unchanged.

    `depth` is how many levels of it may be nested, `items` how many items all levels may have together. The cost is
    proportional to the value's size.
    """
    try:
        left = _check_value(value, depth, items)
    except _WrongPart as wrong:
        raise InvalidInput(".".join([field, *reversed(wrong.path)]), wrong.why) from None
    if left < 0:
        raise InvalidInput(field, f"may have {items:,} items on all levels, not more")


class _WrongPart(Exception):
    """What is wrong with a part of a value. The path is collected on the way out, innermost first.

    A path that is built on the way in is built for every valid item as well: with a long key, that takes minutes.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        self.path: list[str] = []


def _check_value(value: Json, depth: int, left: int) -> int:
    """Check a value of which `left` more items are allowed. Return how many are left; below 0 the rest is unchecked."""
    match value:
        case str():
            if why := _wrong_text(value):
                raise _WrongPart(why)
        case None | bool():
            pass
        case int():
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                raise _WrongPart(_INTEGERS)
        case float():
            if not math.isfinite(value):
                raise _WrongPart("numbers must be finite, not NaN or Infinity")
        case dict() | list() | tuple():
            if depth == 0:
                raise _WrongPart(f"must not be nested deeper than {MAX_DEPTH} levels")
            return _check_items(value, depth - 1, left - len(value))
        case _:
            raise _WrongPart(f"must be a JSON value, not of the type {type(value).__name__}")
    return left


def _check_items(items: JsonObject | list[Json] | tuple[Json, ...], depth: int, left: int) -> int:
    if left < 0:
        return left
    place: object = None
    try:
        if not isinstance(items, dict):
            for place, item in enumerate(items):  # noqa: B007  (used if an item is wrong)
                left = _check_value(item, depth, left)
                if left < 0:
                    break
            return left
        for key, item in items.items():
            place = None
            _check_key(key)
            place = key
            left = _check_value(item, depth, left)
            if left < 0:
                break
    except _WrongPart as wrong:
        if place is not None:
            wrong.path.append(str(place))
        raise
    return left


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise _WrongPart(f"keys must be strings, not {type(key).__name__}")
    if len(key) > MAX_KEY_CHARACTERS:
        raise _WrongPart(f"keys may have {MAX_KEY_CHARACTERS} characters, not {len(key):,}")
    if why := _wrong_text(key):
        raise _WrongPart(why)


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
                raise InvalidInput(f"{before}{name}", _INTEGERS)
        case tuple():
            for index, item in enumerate(value):
                _check_part(item, f"{before}{name}.", index)
        case Struct():
            check_fields(value, f"{before}{name}.")
        case _:
            check_json(msgspec.to_builtins(value), f"{before}{name}")


def check_text(text: str, field: str) -> None:
    """Raise `InvalidInput` unless `text` holds no NUL and no lone surrogate."""
    if why := _wrong_text(text):
        raise InvalidInput(field, why)


def _wrong_text(text: str) -> str:
    """Say why a text cannot be stored; "" if it can."""
    if "\0" in text:
        return "must not contain the character U+0000 (NUL)"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "must not contain a lone surrogate (U+D800 to U+DFFF)"
    return ""


def storable_text(text: str) -> str:
    """Replace characters that cannot be stored by U+FFFD. For texts of models and tools, which cannot be corrected."""
    return _UNSTORABLE.sub("\ufffd", text) if "\0" in text or not text.isascii() else text


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


_INTEGERS = f"integers must be between {MIN_INTEGER} and {MAX_INTEGER}"
