"""The schema in a request: strict where strict mode can say the same, else as it is."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field

from domain.agents.output import output_of
from domain.models.chat import ChatMessage, ChatRequest
from infrastructure.models.openai.request import write_request
from infrastructure.models.openai.response_format import response_format, strict_schema
from tests.support.strict_chat import violations


class Line(BaseModel):
    article: str
    number: int = Field(ge=1, description="How many.")


class Order(BaseModel):
    lines: list[Line]
    kind: Literal["new", "old"]
    first: Line = Field(description="The most important one.")
    note: str | None


class Defaulted(BaseModel):
    note: str = ""


class Marked(BaseModel):
    note: str = Field(json_schema_extra={"default": "x", "examples": ["y"]})


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    size: float


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Tree(BaseModel):
    children: list["Tree"]


class Branch(msgspec.Struct):
    branches: list["Branch"]


class Point(msgspec.Struct):
    x: int
    y: float


@dataclass
class Pair:
    left: str
    right: str


def sent(kind: Any) -> dict[str, Any]:
    field = response_format(output_of(kind).format, schema=True)
    assert field is not None
    assert field["type"] == "json_schema"
    found: dict[str, Any] = field["json_schema"]
    return found


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for each in schema for found in objects(each)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for each in schema.values() for found in objects(each)]


@pytest.mark.parametrize(
    "kind", [Order, Line, Point, Pair, Home, Tree, Branch, int, list[Line], Literal["a", "b"], Marked]
)
def test_closed_schemas_are_strict(kind: Any) -> None:
    found = sent(kind)
    assert found["strict"] is True
    assert found["name"]
    for each in objects(found["schema"]):
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    text = msgspec.json.encode(found["schema"]).decode()
    assert not any(f'"{keyword}":' in text for keyword in ("default", "oneOf", "discriminator", "examples"))
    request = ChatRequest((ChatMessage("user", "Hello?"),), output=output_of(kind).format)
    assert violations(json.loads(write_request(request, "m", ("json_schema", "response_format")))) == []


@pytest.mark.parametrize(
    "kind",
    [
        Defaulted,
        dict[str, int],
        dict[str, Any],
        list[Any],
        tuple[int, str],
        set[str],
        Annotated[str, Field(min_length=2)],
        list[Defaulted],
        bytes,
    ],
)
def test_what_strict_mode_cannot_say_is_sent_as_it_is(kind: Any) -> None:
    found = sent(kind)
    wanted = output_of(kind).format
    assert wanted is not None
    assert (found["strict"], found["schema"]) == (False, wanted.schema)


def test_a_reference_stands_alone() -> None:
    assert sent(Order)["schema"]["properties"]["first"] == {"$ref": "#/$defs/Line"}


def test_a_recursive_type_has_an_object_at_its_root() -> None:
    assert sent(Tree)["schema"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert set(sent(Tree)["schema"]["$defs"]) == {"Tree"}
    assert set(sent(Branch)["schema"]["$defs"]) == {"Branch"}


def test_a_root_that_is_no_object_is_not_strict() -> None:
    assert strict_schema({"anyOf": [{"type": "object", "properties": {}}]}) is None
    assert strict_schema({"$ref": "#/$defs/Tree", "$defs": {}}) is None


def test_without_a_schema_json_is_asked_for() -> None:
    assert response_format(output_of(Line).format, schema=False) == {"type": "json_object"}
    assert response_format(None, schema=True) is None
