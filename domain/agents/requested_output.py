"""Outputs that clients request: JSON schemas from outside.

A schema is accepted only if answers can be checked against all of it, here, in bounded time: every keyword is known,
references stay within the schema, and patterns are of a kind that takes linear time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import jsonschema_rs
import msgspec

from domain.agents.json_schema import MAX_WHY_CHARACTERS
from domain.agents.output import Output, output_of, root_of
from domain.agents.schema_check import ASSERTIONS, DEFINITIONS, Schema, SchemaCheck, assertions
from domain.errors import InvalidInput
from domain.json import Json, JsonObject, check_json
from domain.models.chat import OutputFormat
from domain.thread.codec import to_json
from domain.thread.size_limits import MAX_OUTPUT_SCHEMA_CHARACTERS, check_json_size

FIELD = "output"

DEFAULT_NAME = "answer"

MAX_PATTERNS = 20
MAX_PATTERN_CHARACTERS = 500

MAX_LEAST = {"minLength": 10_000, "minItems": 200, "minProperties": 100}
"""What a schema may demand at least. No model writes more into one answer."""

COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})

MAX_HEIGHT = 32
"""References and alternatives within each other for the same value."""

TOO_HIGH = f"has more than {MAX_HEIGHT} references and alternatives within each other"

FORMATS = frozenset({"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})

DIALECTS = frozenset({"https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema"})

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REFERENCE = re.compile(r"#(?:/(?:\$defs|definitions)/[^/~%]+)?")

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "discriminator"}
)
_ONE, _LIST, _MAP = ("items", "additionalProperties", "propertyNames"), ("anyOf", "oneOf", "allOf"), ("properties",)
_KNOWN = _ANNOTATIONS | ASSERTIONS | {*_ONE, *_LIST, *_MAP, "prefixItems", "$ref"}
_AT_ROOT = frozenset({"$schema", *DEFINITIONS})


def requested_output(schema: JsonObject, name: str = DEFAULT_NAME) -> OutputFormat:
    """Return the output that a client requests.

    Raises:
        InvalidInput: the schema is not accepted; its field is a path such as `output.schema.properties.total.pattern`.
    """
    field = f"{FIELD}.schema"
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{FIELD}.name", "must have 1 to 64 letters, digits, _ or -")
    if not isinstance(schema, dict):
        raise InvalidInput(field, f"must be a JSON schema: an object, not {type(schema).__name__}")
    check_json(schema, field)
    check_json_size(schema, field, MAX_OUTPUT_SCHEMA_CHARACTERS)
    dialect = schema.get("$schema")
    if dialect is not None and (not isinstance(dialect, str) or dialect.removesuffix("#") not in DIALECTS):
        raise InvalidInput(f"{field}.$schema", f"must be one of {', '.join(sorted(DIALECTS))}")
    if not schema.keys() - _ANNOTATIONS - _AT_ROOT:
        raise InvalidInput(field, "must say what the answer is, such as {'type': 'object', 'properties': {...}}")
    _SchemaReader(schema, field).read()
    return OutputFormat(name, {key: value for key, value in schema.items() if key != "$schema"})


def final_output(kind: Any, requested: OutputFormat | None) -> Output[Any]:
    """Return what a turn's answer must be: what the client has requested, else the agent's own `output`."""
    return _output_of(requested.name, to_json(requested.schema)) if requested else output_of(kind)


@lru_cache(maxsize=64)
def _output_of(name: str, schema: str) -> Output[Json]:
    decoded = msgspec.json.decode(schema)
    return Output(name, decoded, SchemaCheck(decoded).check)


class _SchemaReader:
    """Reads a schema before it is accepted. Raises `InvalidInput`."""

    def __init__(self, root: JsonObject, field: str) -> None:
        self._root = root
        self._field = field
        self._patterns = count(1)
        self._parts: list[tuple[JsonObject, str]] = []
        self._heights: dict[int, int] = {}
        """How many parts apply to the same value within each other, for each part; 0 while that is counted."""

    def read(self) -> None:
        """Read all of the schema."""
        for keyword in DEFINITIONS:
            if keyword in self._root:
                self._read_map(self._root[keyword], f"{self._field}.{keyword}")
        self._read(self._root, self._field, _KNOWN | _AT_ROOT)
        for part, field in self._parts:
            try:
                self._height(part, field)
            except RecursionError as error:
                raise InvalidInput(field, TOO_HIGH) from error

    def _read(self, schema: Schema, field: str, known: frozenset[str] = _KNOWN) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise InvalidInput(field, "must be a schema: an object, true or false")
        _check_keywords(schema, field, known)
        self._read_assertions(schema, field)
        self._read_reference(schema, field)
        for keyword in _ONE:
            if keyword in schema:
                self._read(schema[keyword], f"{field}.{keyword}")
        for keyword in (*_LIST, "prefixItems"):
            if keyword in schema:
                self._read_list(schema[keyword], f"{field}.{keyword}")
        for keyword in _MAP:
            if keyword in schema:
                self._read_map(schema[keyword], f"{field}.{keyword}")
        self._parts.append((schema, field))

    def _read_list(self, schemas: Json, field: str) -> None:
        if not isinstance(schemas, list) or not schemas:
            raise InvalidInput(field, "must be a list of at least one schema")
        for index, schema in enumerate(schemas):
            self._read(schema, f"{field}.{index}")

    def _read_map(self, schemas: Json, field: str) -> None:
        if not isinstance(schemas, dict):
            raise InvalidInput(field, "must be an object with a schema for each name")
        for name, schema in schemas.items():
            self._read(schema, f"{field}.{name}")

    def _read_assertions(self, schema: JsonObject, field: str) -> None:
        """Check the keywords that are about a value and none of its parts."""
        for keyword in COUNTS & schema.keys():
            given, most = schema[keyword], MAX_LEAST.get(keyword)
            if isinstance(given, bool) or not isinstance(given, int) or given < 0:
                raise InvalidInput(f"{field}.{keyword}", "must be a whole number from 0 on")
            if most is not None and given > most:
                raise InvalidInput(f"{field}.{keyword}", f"must be at most {most:,}")
        if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
            raise InvalidInput(f"{field}.enum", "must be a list of at least one value")
        if "format" in schema and schema["format"] not in sorted(FORMATS):
            raise InvalidInput(f"{field}.format", f"must be one of {', '.join(sorted(FORMATS))}")
        if "pattern" in schema:
            self._read_pattern(schema["pattern"], f"{field}.pattern")
        for keyword in sorted(ASSERTIONS & schema.keys()):
            try:
                assertions({keyword: schema[keyword]})
            except (jsonschema_rs.ValidationError, ValueError) as error:
                path = ".".join(map(str, getattr(error, "instance_path", None) or [keyword]))
                why = getattr(error, "message", str(error))[:MAX_WHY_CHARACTERS]
                if keyword == "pattern":
                    why = f"must be a small regular expression without look-around and back-references: {why}"
                raise InvalidInput(f"{field}.{path}", why) from error

    def _read_pattern(self, pattern: Json, field: str) -> None:
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN_CHARACTERS:
            raise InvalidInput(field, f"must be a regular expression of at most {MAX_PATTERN_CHARACTERS} characters")
        if next(self._patterns) > MAX_PATTERNS:
            raise InvalidInput(field, f"is one too many: a schema may have {MAX_PATTERNS} patterns")

    def _read_reference(self, schema: JsonObject, field: str) -> None:
        if "$ref" not in schema:
            return
        reference = schema["$ref"]
        if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
            raise InvalidInput(f"{field}.$ref", "must refer to a definition of this schema, as in #/$defs/name")
        if reference == "#" and root_of(self._root).get("type") != "object":
            raise InvalidInput(f"{field}.$ref", "may be # only if the schema has the type object; use #/$defs/name")
        if self._target(reference) is None:
            raise InvalidInput(f"{field}.$ref", "must refer to a definition that the schema has")

    def _target(self, reference: str) -> Schema:
        if reference == "#":
            return self._root
        _, keyword, name = reference.split("/")
        definitions = self._root.get(keyword)
        return definitions.get(name) if isinstance(definitions, Mapping) else None

    def _height(self, schema: Schema, field: str) -> int:
        """Count what applies to the same value. A schema that comes back to itself there could not be checked."""
        if not isinstance(schema, dict):
            return 0
        if id(schema) not in self._heights:
            self._heights[id(schema)] = 0
            inner = (self._height(part, place) for place, part in self._same_value(schema, field))
            self._heights[id(schema)] = 1 + max(inner, default=0)
        elif not self._heights[id(schema)]:
            raise InvalidInput(field, "refers to itself for the same value, without an object or a list in between")
        if self._heights[id(schema)] > MAX_HEIGHT:
            raise InvalidInput(field, TOO_HIGH)
        return self._heights[id(schema)]

    def _same_value(self, schema: JsonObject, field: str) -> Iterator[tuple[str, Schema]]:
        if "$ref" in schema:
            yield f"{field}.$ref", self._target(schema["$ref"])
        for keyword in _LIST:
            parts: Sequence[Schema] = schema.get(keyword, ())
            yield from ((f"{field}.{keyword}.{index}", part) for index, part in enumerate(parts))


def _check_keywords(schema: JsonObject, field: str, known: frozenset[str]) -> None:
    """Raise `InvalidInput` for a keyword that is not known in this place."""
    for keyword in schema:
        if keyword in _AT_ROOT - known:
            raise InvalidInput(f"{field}.{keyword}", "is supported at the top of the schema only")
        if keyword not in known:
            supported = ", ".join(sorted(_KNOWN | _AT_ROOT))
            raise InvalidInput(f"{field}.{keyword}", f"is no supported keyword; supported are: {supported}")
    for keyword in ("title", "description", "$comment"):
        if not isinstance(schema.get(keyword, ""), str):
            raise InvalidInput(f"{field}.{keyword}", "must be text")
