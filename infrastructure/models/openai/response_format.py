"""The field `response_format`: an endpoint's structured mode, which lets the model write only what fits a schema.

Strict mode knows a part of JSON Schema only, and refuses all else. A schema outside of it is sent without `strict`.
"""

import hashlib
from typing import Any, TypeAlias

from domain.json import JsonObject
from domain.models.chat import OutputFormat
from domain.thread.codec import to_json

SCHEMA = "schema:"
"""The prefix of single schemas among the names of omitted fields: an endpoint may refuse one and accept others."""

WITH_TOOLS = "response_format together with tools"
"""Among the names of omitted fields: `response_format` in requests with tools."""

Schema: TypeAlias = Any
"""A JSON schema or a part of one: an object, or true or false."""

_ANNOTATIONS = frozenset({"default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$comment"})
"""Keywords that strict mode refuses, and that do not change what a schema accepts."""

_STRICT = frozenset(
    {"type", "enum", "const", "title", "description", "properties", "required", "additionalProperties", "items"}
    | {"anyOf", "$ref", "$defs", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"multipleOf", "minItems", "maxItems", "format"}
)

_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


class _NotStrictError(Exception):
    """A schema means something that strict mode cannot express."""


def response_format(output: OutputFormat | None, *, schema: bool) -> JsonObject | None:
    """Return the field for an output. Without `schema` it asks only for some JSON object, as DeepSeek does."""
    if output is None:
        return None
    if not schema:
        return {"type": "json_object"}
    strict = strict_schema(output.schema)
    wanted = output.schema if strict is None else strict
    return {"type": "json_schema", "json_schema": {"name": output.name, "schema": wanted, "strict": strict is not None}}


def schema_name(output: OutputFormat) -> str:
    """Return the name of a schema among the omitted fields."""
    return f"{SCHEMA}{output.name} {hashlib.sha256(to_json(output.schema).encode()).hexdigest()[:8]}"


def strict_schema(schema: JsonObject) -> JsonObject | None:
    """Return the schema as strict mode accepts it; None if that would change which answers are valid.

    Objects are closed (`additionalProperties: false`). Every field has to be required already.
    """
    definitions: JsonObject = schema.get("$defs", {})
    if isinstance(root := definitions.get(str(schema.get("$ref", "")).removeprefix("#/$defs/")), dict):
        schema = {**root, "$defs": definitions}  # of a recursive type; strict mode wants an object at the root
    try:
        strict: JsonObject = _strict(schema)
    except (_NotStrictError, RecursionError):
        return None
    return strict if strict.get("type") == "object" and "anyOf" not in strict else None


def _strict(schema: Schema) -> Schema:
    if not isinstance(schema, dict):
        raise _NotStrictError
    if "$ref" in schema and not schema.keys() & _STRICT - {"$ref", "title", "description", "$defs"}:
        defs = {"$defs": _each(schema["$defs"])} if "$defs" in schema else {}
        return {"$ref": schema["$ref"], **defs}  # strict mode refuses keywords next to a reference
    strict = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
    if "oneOf" in strict and "discriminator" in schema:  # its alternatives exclude each other
        strict["anyOf"] = strict.pop("oneOf")
    if strict.keys() - _STRICT or not strict.keys() & {"type", "enum", "const", "anyOf", "$ref"}:
        raise _NotStrictError
    if strict.get("format", "date") not in _STRICT_FORMATS:
        raise _NotStrictError
    if isinstance(strict.get("type"), list):
        raise _NotStrictError
    if strict.get("type") == "object":
        _close(strict)
    if strict.get("type") == "array":
        strict["items"] = _strict(strict.get("items"))
    if "anyOf" in strict:
        strict["anyOf"] = [_strict(each) for each in strict["anyOf"]]
    if "$defs" in strict:
        strict["$defs"] = _each(strict["$defs"])
    return strict


def _close(strict: dict[str, Any]) -> None:
    """Write an object that has exactly its properties."""
    properties = strict.get("properties")
    is_open = strict.get("additionalProperties", False) is not False
    if properties is None or is_open or set(strict.get("required", ())) != set(properties):
        raise _NotStrictError
    strict.update(properties=_each(properties), additionalProperties=False, required=list(properties))


def _each(schemas: JsonObject) -> JsonObject:
    return {name: _strict(schema) for name, schema in schemas.items()}
