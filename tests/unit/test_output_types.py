"""Which types an answer can have: their schemas, their checks, and the error for what cannot be described."""

import datetime as dt
import enum
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from domain.agents.agent import Agent
from domain.agents.assistant import assistant
from domain.agents.output import output_of
from domain.errors import InvalidGraph
from domain.models.chat import AnswerInvalid

T = TypeVar("T")


class Item(msgspec.Struct):
    name: str
    due: dt.datetime | None = None


class Refund(msgspec.Struct, tag=True):
    amount: int


class Question(msgspec.Struct, tag=True):
    text: str


class Other(msgspec.Struct):
    name: str


class Tree(msgspec.Struct):
    children: "list[Tree]"


class Page(msgspec.Struct, Generic[T]):
    rows: list[T]


class Model(BaseModel):
    amount: int


class Size(enum.Enum):
    SMALL = "small"


@dataclass
class Order:
    items: list[Item]


class Shelf(TypedDict):
    items: list[Item]


class Plain(TypedDict):
    amount: int


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)

FIT: list[tuple[Any, Any, Any]] = [
    (Item, {"name": "a"}, Item("a")),
    (list[Item], [{"name": "a", "due": "2026-01-02T12:00:00Z"}], [Item("a", NOON)]),
    (dict[str, Item], {"x": {"name": "a"}}, {"x": Item("a")}),
    (dict[int, Item], {"7": {"name": "a"}}, {7: Item("a")}),
    (dict[Size, Item], {"small": {"name": "a"}}, {Size.SMALL: Item("a")}),
    (Item | None, None, None),
    (Item | None, {"name": "a"}, Item("a")),
    (Refund | Question, {"type": "Refund", "amount": 3}, Refund(3)),
    (list[Refund | Question] | None, [{"type": "Question", "text": "?"}], [Question("?")]),
    (tuple[Item, ...], [{"name": "a"}], (Item("a"),)),
    (Annotated[list[Item], msgspec.Meta(max_length=1)], [{"name": "a"}], [Item("a")]),
    (Tree, {"children": [{"children": []}]}, Tree([Tree([])])),
    (list[Tree], [{"children": []}], [Tree([])]),
    (Page[Item], {"rows": [{"name": "a"}]}, Page([Item("a")])),
    (Order, {"items": [{"name": "a"}]}, Order([Item("a")])),
    (Shelf, {"items": [{"name": "a"}]}, {"items": [Item("a")]}),
    (list[Order], [{"items": []}], [Order([])]),
    (Plain, {"amount": 1}, {"amount": 1}),
    (list[Model], [{"amount": 1}], [Model(amount=1)]),
    (Model | None, None, None),
    (Size, "small", Size.SMALL),
    (list[Size], ["small"], [Size.SMALL]),
    (Literal["a", "b"], "b", "b"),
    (dt.datetime, "2026-01-02T12:00:00Z", NOON),
    (dict[str, int], {"a": 1}, {"a": 1}),
]


@pytest.mark.parametrize(("kind", "written", "value"), FIT, ids=lambda part: str(part)[:40])
def test_a_type_is_described_and_its_answers_are_converted(kind: Any, written: Any, value: Any) -> None:
    output = output_of(kind)
    text = json.dumps({"answer": written} if output.is_wrapped else written)
    assert output.parse(text) == value
    assert output.format is not None
    assert output.format.schema["type"] == "object"
    assert references(output.format.schema) <= {f"#/$defs/{name}" for name in output.format.schema.get("$defs", {})}
    assert Agent(assistant().graph, output=kind).output == kind
    assert assistant(output=kind).output == kind


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (list[Item], [{"name": 1}]),
        (dict[str, Item], {"x": None}),
        (Item | None, "a"),
        (Refund | Question, {"type": "Refund", "text": "?"}),
        (Order, {"items": [{}]}),
        (Annotated[list[Item], msgspec.Meta(max_length=1)], [{"name": "a"}, {"name": "b"}]),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(kind: Any, written: Any) -> None:
    output = output_of(kind)
    with pytest.raises(AnswerInvalid, match="does not fit"):
        output.parse(json.dumps({"answer": written} if output.is_wrapped else written))


class Opaque:
    """A class that neither library can describe."""


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Any, "it describes nothing"),
        (object, "it describes nothing"),
        (None, "it is not a type"),
        ("Item", "it is not a type"),
        (len, "it is not a type"),
        (lambda text: text, "it is not a type"),
        (7, "not supported"),
        ([Item], "unhashable"),
        ({"type": "object"}, "unhashable"),
        (Item | Other, "tagged"),
        (list[Item | Other], "tagged"),
        (list[Item | Model], "pydantic"),
        (Opaque, "Opaque"),
        (list[Opaque], "Opaque"),
        (Iterable[Item], "Item"),
        (Callable[[], int], "Callable"),
        (list["Missing"], "not fully defined"),  # type: ignore[name-defined]  # noqa: F821
    ],
    ids=range(17),
)
def test_what_cannot_be_described_is_refused_when_the_agent_is_defined(kind: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why) as error:
        output_of(kind)
    assert "Use str, a Literal" in str(error.value)
    with pytest.raises(InvalidGraph, match=f"desk: output=.*{why}"):
        assistant("desk", output=kind)


def references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {found for part in schema for found in references(part)}
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*(references(part) for part in schema.values()))
