"""The built-in model's JSON: a value that fits a JSON schema, with what the prompt says where it says something.

It knows the keywords that pydantic and msgspec write, and those of the schemas that clients may send. A pattern is only
met by a word of the prompt that matches it. A schema that would take too long is answered with `{}`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from fractions import Fraction
from itertools import count, islice
from typing import Any, NamedTuple, TypeAlias

from domain.agents.schema_check import matcher
from domain.json import Json, JsonObject
from domain.thread.codec import to_json
from infrastructure.models.offline.prompt_facts import PromptFacts

MAX_DEPTH = 40
MAX_STEPS = 20_000
"""Parts of a schema that are filled, and values that are tried."""

MAX_SEARCHED_CHARS = 500_000
"""Characters that are searched: the prompt once for each part of a schema. Later parts are filled without it."""

MAX_ITEMS = 20
"""Items that a list has at most, if its schema does not demand more."""

Schema: TypeAlias = Any
"""A JSON schema: an object, or true or false."""

_FORMATS = {
    "time": ("00:00:00Z", re.compile(r"\b[0-2]\d:[0-5]\d(?::[0-5]\d)?\b")),
    "duration": ("PT1H", re.compile(r"\bP(?:\d{1,6}D)?T?(?:\d{1,6}[HMS]){1,3}\b")),
    "uuid": ("00000000-0000-4000-8000-000000000000", re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")),
    "email": (
        "nobody@example.org",
        re.compile(r"\b[a-zA-Z0-9_+-]{1,64}@[a-zA-Z0-9-]{1,63}(?:\.[a-zA-Z]{2,24}){1,3}\b"),
    ),
    "uri": ("https://example.org/", re.compile(r"\bhttps?://[a-zA-Z0-9.-]{1,100}(?:/[\w/-]{0,200})?")),
    "ipv4": ("127.0.0.1", None),
    "ipv6": ("::1", None),
    "ipv4network": ("127.0.0.0/8", None),
    "ipv6network": ("::1/128", None),
    "hostname": ("example.org", None),
    "json-string": ("null", None),
}
_DATE = re.compile(r"\b[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])\b")
_FIRST_DATE = date(2000, 1, 1)


class Filled(NamedTuple):
    """A value. `found`: the prompt says it."""

    value: Json
    found: bool


def structured(schema: JsonObject, text: str) -> str:
    """Return JSON that fits a schema."""
    try:
        return to_json(_Filler(schema, text).fill(schema).value)
    except _TooLongError:
        return "{}"


class _TooLongError(Exception):
    """The schema demands too much."""


class _Filler:
    def __init__(self, root: JsonObject, text: str) -> None:
        self._root = root
        self._facts = PromptFacts(text)
        self._used: set[int] = set()
        """Where the numbers are that a field has."""
        self._left = MAX_STEPS
        self._readable = MAX_SEARCHED_CHARS

    def _take(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooLongError
        self._readable -= len(self._facts.read)
        if self._readable < 0:
            self._facts = PromptFacts("")

    def fill(self, schema: Schema, name: str = "", refs: tuple[str, ...] = ()) -> Filled:
        """Return a value for a schema. `name` is the field's; `refs` are the definitions that are being filled."""
        self._take()
        if not isinstance(schema, dict) or not schema or len(refs) > MAX_DEPTH:
            return Filled(self._facts.text, found=False)
        if "$ref" in schema:
            inner = {**self._target(schema["$ref"]), **{key: each for key, each in schema.items() if key != "$ref"}}
            return self.fill(inner, name, (*refs, schema["$ref"]))
        if "const" in schema:
            return Filled(schema["const"], self._facts.find(str(schema["const"])) is not None)
        if schema.get("enum"):
            option = self._facts.option(schema["enum"])
            return Filled(schema["enum"][0] if option is None else option, option is not None)
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                return self._alternative(schema[keyword], name, refs)
        if schema.get("allOf"):
            return self.fill(_merged(schema, [self._resolved(each) for each in schema["allOf"]]), name, refs)
        if isinstance(schema.get("type"), list):
            return self._alternative([{**schema, "type": each} for each in schema["type"]], name, refs)
        return self._typed(schema, name, refs)

    def _typed(self, schema: JsonObject, name: str, refs: tuple[str, ...]) -> Filled:
        match schema.get("type") or ("object" if "properties" in schema else "string"):
            case "object":
                return self._object(schema, name, refs)
            case "array":
                return self._array(schema, name, refs)
            case "boolean":
                says = self._facts.says_yes("" if name == "answer" else name)
                return Filled(says is not False, says is not None)
            case "integer" | "number":
                return self._number(schema, name)
            case "null":
                return Filled(None, found=False)
            case _:
                return self._string(schema, name)

    def _target(self, reference: str) -> JsonObject:
        found: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def _resolved(self, schema: Schema) -> JsonObject:
        for _ in range(MAX_DEPTH):
            if not (isinstance(schema, dict) and "$ref" in schema):
                break
            schema = {**self._target(schema["$ref"]), **{key: schema[key] for key in schema if key != "$ref"}}
        return schema if isinstance(schema, dict) else {}

    def _alternative(self, schemas: Sequence[Schema], name: str, refs: tuple[str, ...]) -> Filled:
        """Fill the first alternative that the prompt speaks of, else null, else the first one."""
        finite = [each for each in schemas if not self._recurs(each, refs)] or list(schemas)
        types = [self._resolved(each).get("type") for each in finite]
        if "number" in types and "string" in types[types.index("number") :]:  # a decimal: not any text is one
            finite = [each for each, kind in zip(finite, types, strict=True) if kind != "string"]
        for each in finite:
            before = set(self._used)
            filled = self.fill(each, name, refs)
            if filled.found:
                return filled
            self._used = before
        none = [each for each in finite if self._resolved(each).get("type") == "null"]
        return Filled(self.fill((none or finite)[0], name, refs).value, found=False)

    def _recurs(self, schema: Schema, refs: tuple[str, ...]) -> bool:
        """Say whether a schema is one that is being filled, so that filling it would not end."""
        return isinstance(schema, dict) and (
            schema.get("$ref") in refs
            or any(self._recurs(each, refs) for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ()))
        )

    def _object(self, schema: JsonObject, name: str, refs: tuple[str, ...]) -> Filled:
        """Fill the required fields, and the others that the prompt speaks of."""
        filled: JsonObject = {}
        found, required = False, set(schema.get("required", ()))
        for key, inner in schema.get("properties", {}).items():
            self._take()
            if key not in required and (self._recurs(inner, refs) or self._facts.find_name(key) is None):
                continue
            value = self.fill(inner, key, refs)
            if key in required or value.found:
                filled[key] = value.value
                found = found or value.found
        names = self._resolved(schema.get("propertyNames")).get("enum") or (f"key{n}" for n in count(1))
        missing = schema.get("minProperties", 0) - len(filled)
        for key in islice(names, max(missing, 0)):
            filled[str(key)] = self.fill(schema.get("additionalProperties", True), str(key), refs).value
        return Filled(filled, found or self._facts.find_name(name) is not None)

    def _array(self, schema: JsonObject, name: str, refs: tuple[str, ...]) -> Filled:
        least, most = schema.get("minItems", 0), schema.get("maxItems", MAX_ITEMS)
        filled = [self.fill(each, name, refs) for each in schema.get("prefixItems", ())]
        inner = schema.get("items", "prefixItems" not in schema)
        unique = bool(schema.get("uniqueItems"))
        if inner is not False:
            wanted = max(least, 0 if self._recurs(inner, refs) else min(most, MAX_ITEMS))
            filled += list(islice(self._items(inner, name, refs), max(wanted - len(filled), 0)))
        values: list[Json] = []
        for each in filled:
            if not (unique and each.value in values) and (each.found or len(values) < max(least, 1)):
                values.append(each.value)
        if not values and least == 0:
            return Filled([], found=False)
        while len(values) < least:
            more = self._others(inner, name, refs) if unique else iter([self.fill(inner, name, refs).value])
            values.append(self._fresh(more, values if unique else ()))
        return Filled(values[:most], any(each.found for each in filled))

    def _fresh(self, more: Iterator[Json], values: Sequence[Json]) -> Json:
        """Return the next value that is none of some values."""
        for value in more:
            self._take(1 + len(values) // 20)
            if value not in values:
                return value
        return None

    def _items(self, inner: Schema, name: str, refs: tuple[str, ...]) -> Iterator[Filled]:
        """Yield what the prompt says of the items: each option that it names, each number, else one item."""
        schema = self._resolved(inner)
        if options := schema.get("enum"):
            yield from (Filled(option, found=True) for option in options if self._facts.find(str(option)))
        elif schema.get("type") in {"integer", "number"}:
            yield from (Filled(_written(n, schema), found=True) for _, n in self._facts.numbers if _fits(n, schema))
        else:
            yield self.fill(inner, name, refs)

    def _others(self, inner: Schema, name: str, refs: tuple[str, ...]) -> Iterator[Json]:
        """Yield different values for a schema, without regard to the prompt."""
        schema = self._resolved(inner)
        if options := schema.get("enum"):
            yield from options
            return
        for alternative in schema.get("anyOf", ()):
            yield from islice(self._others(alternative, name, refs), 100)
        match schema.get("type"):
            case "boolean":
                yield from (True, False)
            case "integer" | "number":
                yield from (_written(number, schema) for number in _numbers(schema))
            case "string" if "date" in schema.get("format", ""):
                end = "T00:00:00Z" if schema["format"] == "date-time" else ""
                yield from (f"{_FIRST_DATE + timedelta(days=days)}{end}" for days in range(10_000))
            case "string":
                text, most = str(self._string(schema, name).value), schema.get("maxLength", 1_000)
                yield from (f"{text[: most - len(str(n))]}{n}"[:most] for n in range(10_000))
            case _:
                yield self.fill(inner, name, refs).value

    def _number(self, schema: JsonObject, name: str) -> Filled:
        """Return the unused number of the prompt that fits and is nearest to the field's name, else the first one."""
        fitting = [(at, n) for at, n in self._facts.numbers if at not in self._used and _fits(n, schema)]
        if not fitting:
            return Filled(_written(next(_numbers(schema), 0.0), schema), found=False)
        near = self._facts.near(name) if name else None
        place, number = fitting[0] if near is None else min(fitting, key=lambda each: abs(each[0] - near))
        self._used.add(place)
        return Filled(_written(number, schema), found=True)

    def _string(self, schema: JsonObject, name: str) -> Filled:
        if filled := self._formatted(schema):
            return filled
        least, most = schema.get("minLength", 0), schema.get("maxLength", max(schema.get("minLength", 0), 1_000))
        said = self._facts.value_of(name) if name else None
        text = (self._facts.text if said is None else said)[:most].strip()
        text += "." * (least - len(text))
        if pattern := schema.get("pattern"):
            matching = _matching(pattern, [text, *self._facts.read.split()[-1_000:], "a", "A", "0", ""], least, most)
            return Filled(text if matching is None else matching, matching is not None)
        return Filled(text, said is not None)

    def _formatted(self, schema: JsonObject) -> Filled | None:
        """Return a text in a format, None if there is no such format."""
        name = schema.get("format", "")
        if schema.get("contentMediaType") == "application/json":
            return Filled(to_json(self.fill(schema.get("contentSchema", True)).value), found=False)
        if name in {"date", "date-time"}:
            match = _DATE.search(self._facts.read)
            end = "T00:00:00Z" if name == "date-time" else ""
            return Filled(f"{match[0] if match else _FIRST_DATE}{end}", match is not None)
        if name not in _FORMATS:
            return None
        usual, pattern = _FORMATS[name]
        match = pattern.search(self._facts.read) if pattern else None
        return Filled(match[0] if match else usual, match is not None)


def _merged(schema: JsonObject, parts: Sequence[JsonObject]) -> JsonObject:
    """Return what a schema and its `allOf` demand together."""
    merged: dict[str, Any] = {}
    for part in (*parts, {key: each for key, each in schema.items() if key != "allOf"}):
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged = {**merged, **part, "properties": properties, "required": required}
    return merged if merged["properties"] else {k: v for k, v in merged.items() if k not in {"properties", "required"}}


def _fits(number: float, schema: JsonObject) -> bool:
    step = schema.get("multipleOf")
    return (
        (schema["type"] == "number" or number == int(number))
        and schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < number < schema.get("exclusiveMaximum", math.inf)
        and (not step or Fraction(str(number)) % Fraction(str(step)) == 0)
    )


def _numbers(schema: JsonObject) -> Iterator[float]:
    """Yield numbers that fit, from the one nearest to 0."""
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    step = Fraction(str(schema.get("multipleOf") or 1))
    start = low if low > 0 else min(high, 0)
    first = (math.ceil if start == low else math.floor)(Fraction(start) / step) * step
    near = (first + sign * n * step for n in range(10_000) for sign in ((1, -1) if n else (1,)))
    between = (low + (high - low) * share / 1_024 for share in (512, *range(1, 1_024)) if high - low < math.inf)
    for number in (*islice(near, 1_000), low, high, *between):
        if math.isfinite(number) and _fits(float(number), schema):
            yield float(number)
    if schema["type"] == "number":
        yield from (n for n in (math.nextafter(low, high), math.nextafter(high, low)) if _fits(n, schema))


def _written(number: float, schema: JsonObject) -> Json:
    return int(number) if schema["type"] == "integer" or number == int(number) else number


def _matching(pattern: str, candidates: Sequence[str], least: int, most: int) -> str | None:
    compiled = matcher(pattern)
    if compiled is None:
        return None
    for text in candidates:
        for each in (text, text.strip(".,;:!?\"'()")):
            if least <= len(each) <= most and compiled.is_valid(each):
                return each
    return None
