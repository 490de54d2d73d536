"""What the built-in model answers fits whatever it is asked for."""

import contextlib
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from domain.agents.output import output_of
from infrastructure.models.offline.structured import structured
from tests.support.examples import examples


class Mood(Enum):
    GOOD = "good"
    BAD = "really bad"


class Level(Enum):
    LOW = 1
    HIGH = 2


class Tree(BaseModel):
    label: str
    children: list["Tree"]
    parent: Optional["Tree"]
    others: dict[str, "Tree"] = {}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    age: float = Field(gt=0.5, lt=0.75)


class Point(msgspec.Struct):
    x: Annotated[int, msgspec.Meta(ge=3)]
    y: float
    mood: Mood
    note: str | None = None


class Linked(msgspec.Struct):
    label: str
    following: Optional["Linked"]


class Tagged(msgspec.Struct, tag="tagged"):
    point: Point
    words: Annotated[list[str], msgspec.Meta(min_length=2)]


NAMES = ("order", "amount", "is_urgent", "reason", "customerName", "x", "answer")
TEXTS = (
    "Order A-17 came broken on 2026-03-04. Amount: 30, reason: too late; not urgent.",
    'customer name is "Ada", my amount 12.5 or -3 or 1,200 of 7',
    "yes, cat",
    "a dog, really bad",
    "",
)


@st.composite
def whole_numbers(draw: st.DrawFn) -> Any:
    low = draw(st.none() | st.integers(-1_000, 1_000))
    high = draw(st.none() | st.integers(low or 0, 2_000).filter(lambda n: low is None or n >= low + 10))
    step = draw(st.sampled_from([None, 5])) if high is None else None
    return Annotated[int, Field(ge=low, le=high, multiple_of=step)]


@st.composite
def real_numbers(draw: st.DrawFn) -> Any:
    low = draw(st.none() | st.floats(-1e6, 1e6))
    width = draw(st.none() | st.floats(0.001, 1e6))
    high = None if width is None else (low or 0.0) + width
    return Annotated[float, Field(gt=low, lt=high) if draw(st.booleans()) else Field(ge=low, le=high)]


@st.composite
def texts(draw: st.DrawFn) -> Any:
    least = draw(st.integers(0, 300))
    return Annotated[str, Field(min_length=least, max_length=draw(st.none() | st.integers(least, 400)))]


PLAIN = st.sampled_from([str, int, float, bool, date, datetime, time, timedelta, UUID, Decimal, Mood, Level, None]) | (
    st.sampled_from([Literal["refund", "question"], Literal[1, 2], Literal["a b", 3, True], Tree, Cat, Dog])
)
KEYS = st.sampled_from([str, int, float, bool, date, Mood, Literal["a", "b"]])
"""What a set can have two of."""


@st.composite
def lists(draw: st.DrawFn, items: st.SearchStrategy[Any]) -> Any:
    least = draw(st.integers(0, 3))
    bounds = Field(min_length=least, max_length=draw(st.none() | st.integers(least, 30)))
    return Annotated[list.__class_getitem__(draw(items)), bounds]


@st.composite
def models(draw: st.DrawFn, fields: st.SearchStrategy[Any]) -> Any:
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    defaults = {name: (Optional[draw(fields)], None) if draw(st.booleans()) else None for name in chosen}  # noqa: UP045
    return create_model("Made", **{name: given or (draw(fields), ...) for name, given in defaults.items()})  # type: ignore[call-overload]


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    makers: list[Callable[[Any], Any]] = [
        lambda kind: Optional[kind],  # noqa: UP045  (of any value)
        lambda kind: dict.__class_getitem__((str, kind)),
        lambda kind: Annotated[dict.__class_getitem__((str, kind)), Field(min_length=2)],
        lambda kind: tuple.__class_getitem__((kind, int)),
        lambda kind: tuple.__class_getitem__((kind, ...)),
        lambda kind: Union[int, kind],  # noqa: UP007
    ]
    return (
        lists(inner)
        | models(inner)
        | st.builds(lambda make, kind: make(kind), st.sampled_from(makers), inner)
        | st.builds(
            lambda kind, least: Annotated[set.__class_getitem__(kind), Field(min_length=least)], KEYS, st.integers(0, 2)
        )
    )


KINDS = st.recursive(PLAIN | whole_numbers() | real_numbers() | texts(), nested, max_leaves=8) | st.sampled_from(
    [Point, Tagged, Linked, Annotated[Cat | Dog, Field(discriminator="kind")], dict[Literal["a", "b"], int]]
)


@settings(deadline=None, max_examples=examples(400))
@given(KINDS, st.sampled_from(TEXTS) | st.text())
def test_answers_are_valid_and_always_the_same(kind: Any, text: str) -> None:
    output = output_of(kind)
    if (wanted := output.format) is None:
        return
    answer = structured(wanted.schema, text)
    output.parse(answer)
    assert structured(wanted.schema, text) == answer


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from(["#/$defs/A", "object", "array", "string"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "$ref", "$defs", "anyOf", "items", "properties", "A", "title"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_odd_schemas_of_agents_end_the_answer_in_no_time(schema: Any) -> None:
    """Only that it ends: what is no schema has no valid answer."""
    with contextlib.suppress(AttributeError, TypeError, LookupError, ValueError):
        structured({"type": "object", "properties": {"a": schema}, "required": ["a"], "$defs": {"A": schema}}, "text")
