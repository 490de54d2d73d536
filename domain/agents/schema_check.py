"""Checks JSON against a schema from outside in bounded time, whatever the schema.

A part of a schema is checked at most once for each part of the value. So references that multiply, as in
`allOf: [a, a]` with a definition of `a` that does the same again, cost no more than their text is long. Patterns take
linear time. Nothing is fetched.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import jsonschema_rs

from domain.json import Json, JsonObject
from domain.thread.codec import to_json

Schema: TypeAlias = Any
"""A JSON schema or a part of one: an object, or true or false."""

Path: TypeAlias = tuple[str | None, ...]
"""Where a part of a value is: names and indexes. None after a name: the name itself."""

DEFINITIONS = ("$defs", "definitions")

ASSERTIONS = frozenset(
    {"type", "enum", "const", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}
    | {"minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems", "required"}
    | {"minProperties", "maxProperties"}
)
"""Keywords about a value that do not apply schemas to parts of it."""

MAX_CHECKS = 50_000
"""Checks of one value, each of a part of it against a part of the schema."""

MAX_LEVELS = 64
"""Levels of objects and lists in a value."""

MAX_ERRORS = 10
"""Errors of one value that are named."""

MAX_ERROR_CHARACTERS = 200

MAX_PATTERN_BYTES = 256 * 1024
"""Bytes that a pattern may take when it is compiled."""

_WHOLE = frozenset({"enum", "const", "uniqueItems"})
"""Keywords that compare all of a value."""


def assertions(keywords: JsonObject) -> jsonschema_rs.Validator:
    """Compile the keywords of one part of a schema that are among `ASSERTIONS`.

    Raises `jsonschema_rs.ValidationError` for a keyword with a wrong value.
    """
    return jsonschema_rs.Draft202012Validator(
        keywords,
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
        offline=True,
    )


@lru_cache(maxsize=256)
def matcher(pattern: str) -> jsonschema_rs.Validator | None:
    """Compile a pattern so that matching takes linear time. Returns None for one that cannot be matched so."""
    try:
        return assertions({"type": "string", "pattern": pattern})
    except (jsonschema_rs.ValidationError, ValueError):
        return None


class SchemaCheck:
    """Checks values against one schema."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._compiled: dict[int, jsonschema_rs.Validator | None] = {}

    def check(self, value: Json) -> Json:
        """Return a value that fits. Raises `ValueError` with the errors of one that does not."""
        try:
            errors = _Checking(self).errors(self._root, value, ())
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if errors:
            raise ValueError("; ".join(errors[:MAX_ERRORS]))
        return value

    def target(self, reference: str) -> Schema:
        """Return the part of the schema that a reference names."""
        if reference == "#":
            return self._root
        _, keyword, name = reference.split("/")
        return self._root[keyword][name]

    def own_errors(self, schema: JsonObject, value: Json) -> Iterator[str]:
        """Yield what a value violates itself, without its parts."""
        if id(schema) not in self._compiled:
            keywords = {key: schema[key] for key in ASSERTIONS & schema.keys()}
            self._compiled[id(schema)] = assertions(keywords) if keywords else None
        compiled = self._compiled[id(schema)]
        if compiled is None:
            return
        shown = value if schema.keys() & _WHOLE else _without_parts(value)
        for error in compiled.iter_errors(shown):
            # The message quotes the value, of which only the outside was checked.
            own = shown is value or error.schema_path[0] == "required"
            yield error.message if own else f"must fit {_quoted(schema, error.schema_path)}"


class _Checking:
    """One check of one value. Errors are remembered by the part of the schema and the part of the value."""

    def __init__(self, schema: SchemaCheck) -> None:
        self._schema = schema
        self._known: dict[tuple[int, Path], tuple[str, ...]] = {}

    def errors(self, schema: Schema, value: Json, path: Path) -> tuple[str, ...]:
        if schema is True:
            return ()
        if schema is False:
            return (_named(path, "must not be there"),)
        key = (id(schema), path)
        if key not in self._known:
            if len(self._known) >= MAX_CHECKS:
                raise ValueError("it is too large to be checked against the schema")
            if len(path) > MAX_LEVELS:
                raise ValueError(f"it is nested deeper than {MAX_LEVELS} levels")
            self._known[key] = ()
            self._known[key] = tuple(self._errors(schema, value, path))[:MAX_ERRORS]
        return self._known[key]

    def _errors(self, schema: JsonObject, value: Json, path: Path) -> Iterator[str]:
        yield from (_named(path, error) for error in self._schema.own_errors(schema, value))
        if "$ref" in schema:
            yield from self.errors(self._schema.target(schema["$ref"]), value, path)
        for part in schema.get("allOf", ()):
            yield from self.errors(part, value, path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                yield from self._alternatives(schema[keyword], value, path, one=keyword == "oneOf")
        if isinstance(value, dict):
            yield from self._of_object(schema, value, path)
        elif isinstance(value, list):
            yield from self._of_list(schema, value, path)

    def _alternatives(self, schemas: list[Schema], value: Json, path: Path, *, one: bool) -> Iterator[str]:
        each = [self.errors(part, value, path) for part in schemas]
        fitting = sum(not errors for errors in each)
        if fitting == 0:
            yield from min(each, key=len)
        elif one and fitting > 1:
            yield _named(path, f"must fit one of {len(each)} alternatives, not {fitting}")

    def _of_object(self, schema: JsonObject, value: JsonObject, path: Path) -> Iterator[str]:
        properties = schema.get("properties", {})
        for name, item in value.items():
            here = (*path, name)
            yield from self.errors(properties.get(name, schema.get("additionalProperties", True)), item, here)
            if "propertyNames" in schema:
                yield from self.errors(schema["propertyNames"], name, (*here, None))

    def _of_list(self, schema: JsonObject, value: list[Json], path: Path) -> Iterator[str]:
        first = schema.get("prefixItems", ())
        for index, item in enumerate(value):
            part = first[index] if index < len(first) else schema.get("items", True)
            yield from self.errors(part, item, (*path, str(index)))


def _without_parts(value: Json) -> Json:
    """Return a value that is equal for keywords which do not look into it."""
    if isinstance(value, dict):
        return dict.fromkeys(value)
    return [None] * len(value) if isinstance(value, list) else value


def _named(path: Path, error: str) -> str:
    error = error if len(error) <= MAX_ERROR_CHARACTERS else f"{error[: MAX_ERROR_CHARACTERS - 1]}…"
    return f"{'.'.join(part for part in path if part)}: {error}" if path else error


def _quoted(schema: JsonObject, path: list[str | int]) -> str:
    """Name a keyword of a schema with its value."""
    keyword = str(path[0])
    return f"{keyword} {to_json(schema[keyword])}"
