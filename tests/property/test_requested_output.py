"""Schemas from clients: each is refused with its field, or answers are checked against all of it, in bounded time."""

import contextlib
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.agents.requested_output import final_output, requested_output
from domain.agents.schema_check import SchemaCheck
from domain.errors import InvalidInput
from domain.models.chat import OutputFormat
from infrastructure.models.offline.structured import structured

NAMES = st.sampled_from(["a", "b", "kind", ""])
SCALARS = st.none() | st.booleans() | st.integers(-3, 5) | st.sampled_from([0.5, 1.0, "", "a", "ab", "2026-12-01"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
REFERENCES = st.sampled_from(["#/$defs/a", "#/$defs/b", "#"])
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "minimum": st.integers(-2, 2) | st.just(0.5),
    "exclusiveMaximum": st.integers(-2, 4),
    "multipleOf": st.sampled_from([1, 2, 0.5]),
    "minLength": st.integers(0, 3),
    "maxLength": st.integers(0, 3),
    "pattern": st.sampled_from(["^a", "^(a+)+$", "b$", "[0-9]{2}"]),
    "format": st.sampled_from(["date", "email", "uuid", "uri"]),
    "minItems": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "uniqueItems": st.booleans(),
    "required": st.lists(NAMES, max_size=2, unique=True),
    "minProperties": st.integers(0, 2),
    "description": st.just("d"),
}


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            **LEAVES,
            "anyOf": some,
            "oneOf": some,
            "allOf": some,
            "prefixItems": some,
            "items": inner,
            "additionalProperties": inner,
            "propertyNames": inner,
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "$ref": REFERENCES,
        },
    )


PARTS = st.recursive(st.booleans() | st.fixed_dictionaries({}, optional=LEAVES), larger, max_leaves=6)
SCHEMAS = st.builds(
    lambda root, a, b: {**root, "$defs": {"a": a, "b": b}},
    PARTS.filter(lambda part: isinstance(part, dict)),
    PARTS,
    PARTS,
)


def accepted(schema: Any) -> OutputFormat | None:
    try:
        return requested_output(schema)
    except InvalidInput as error:
        return None if error.field.startswith("output.schema") else pytest.fail(error.field)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, VALUES)
def test_answers_are_checked_as_a_validator_without_limits_does(schema: Any, value: Any) -> None:
    if accepted(schema) is None:
        return
    expected = jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(value)
    with contextlib.nullcontext() if expected else pytest.raises(ValueError, match=r"."):
        SchemaCheck(schema).check(value)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS, st.sampled_from(["a", "b is 3, a: ab and 2026-12-01", ""]))
def test_the_built_in_model_answers_to_each_accepted_schema(schema: Any, text: str) -> None:
    if wanted := accepted(schema):
        output = final_output(str, wanted)
        assert output.format
        assert structured(output.format.schema, text)


WEIRD = st.recursive(
    SCALARS | REFERENCES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*LEAVES, "$ref", "anyOf", "items", "properties", "$defs", "not"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(WEIRD)
def test_any_json_is_accepted_or_refused(schema: Any) -> None:
    if wanted := accepted(schema):
        jsonschema_rs.meta.validate(wanted.schema)


TWICE = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(14)}
TREE = {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#/$defs/t"}, {"$ref": "#/$defs/t"}]}}}
NESTED: dict[str, Any] = {"type": "string"}
for _ in range(15):
    NESTED = {"type": "array", "items": NESTED, "minItems": 200, "uniqueItems": True}
BOMBS: dict[str, dict[str, Any]] = {
    "multiplied": {"$ref": "#/$defs/d0", "$defs": {**TWICE, "d14": {"type": "string", "pattern": "^(a|a)*$"}}},
    "doubled at each level": {"$ref": "#/$defs/t", "$defs": {"t": {**TREE, "required": ["n"]}}},
    "lists of lists": NESTED,
    "patterns": {"type": "object", "properties": {f"p{n}": {"pattern": "(x+x+)+y|(a{99}){9}"} for n in range(20)}},
    "a long text": {"type": "string", "minLength": 10_000},
    "far numbers": {"type": "integer", "minimum": 1e300, "multipleOf": 1e-300},
    "many parts": {"type": "object", "properties": {f"property{n}": {"type": "string"} for n in range(400)}},
}


@pytest.mark.parametrize("schema", BOMBS.values(), ids=BOMBS)
def test_no_accepted_schema_takes_long(schema: Any) -> None:
    began = time.process_time()
    output = final_output(str, requested_output(schema))
    assert output.format
    structured(output.format.schema, f"{'x' * 20_000} {'a' * 5_000}!")
    value: Any = "x" * 20_000
    for _ in range(60):
        value = {"n": value, "p1": "a" * 1_000}
    for answer in (value, [value] * 50, "a" * 20_000 + "!"):
        with contextlib.suppress(ValueError):
            output.check(answer)
    assert time.process_time() - began < 3
