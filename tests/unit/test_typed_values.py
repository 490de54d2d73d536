"""Values of threads that fit a model: a pydantic model or a msgspec struct."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Annotated, Any
from uuid import uuid4

import pytest
from msgspec import Meta, Struct
from pydantic import BaseModel, ConfigDict, Field, field_validator

from domain.agents.agent import TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node, Subgraph
from domain.agents.registry import Agents
from domain.agents.tools import ToolContext, tool
from domain.agents.values import ValuesModel, filled_values, typed_values
from domain.application.turns.check_input import check_change, opening_values
from domain.errors import InvalidGraph, InvalidInput
from domain.thread.events import END, NodeEvent, ThreadOpened, ToolFailed, ToolSucceeded, TurnStarted
from domain.thread.evolve import fold
from domain.thread.state import INITIAL
from tests.support.runtime import calls, says, stage


class Item(BaseModel):
    name: str


class Order(BaseModel):
    order_id: str
    items: list[Item] = []
    placed: date = date(2026, 11, 30)
    note: str | None = None


class ItemStruct(Struct):
    name: str


class OrderStruct(Struct):
    order_id: Annotated[str, Meta(min_length=1)]
    items: list[ItemStruct] = []
    placed: date = date(2026, 11, 30)
    note: str | None = None


FILLED: dict[str, Any] = {"order_id": "A", "items": [], "placed": "2026-11-30", "note": None}


@pytest.mark.parametrize("model", [Order, OrderStruct])
def test_defaults_are_filled_in_and_values_are_typed(model: ValuesModel) -> None:
    assert filled_values(model, {"order_id": "A"}) == FILLED
    typed = typed_values(model, {"order_id": "A", "items": [{"name": "pen"}], "placed": "2025-01-02"})
    assert (typed.items[0].name, typed.placed) == ("pen", date(2025, 1, 2))


@pytest.mark.parametrize("model", [Order, OrderStruct])
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "values.order_id"),
        ({"order_id": 5}, "values.order_id"),
        ({"order_id": "A", "items": [{"name": "pen"}, {"name": 5}]}, "values.items.1.name"),
        ({"order_id": "A", "items": [{}]}, "values.items.0.name"),
        ({"order_id": "A", "placed": "soon"}, "values.placed"),
        ({"order_id": "A", "oder_id": "B"}, "values.oder_id"),
    ],
)
def test_what_does_not_fit_names_its_field(model: ValuesModel, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        typed_values(model, values)
    assert refused.value.field == field


def test_aliases_and_more_fields_are_as_the_model_says() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(extra="allow")
        order_id: str = Field(alias="orderId")

    class Strict(BaseModel):
        order_id: str = Field(alias="orderId")

    class Renamed(Struct, rename="camel"):
        order_id: str

    assert filled_values(Aliased, {"orderId": "A", "more": 1}) == {"orderId": "A", "more": 1}
    for model in (Strict, Renamed):
        assert filled_values(model, {"orderId": "A"}) == {"orderId": "A"}
        with pytest.raises(InvalidInput, match=r"values\.order_id"):
            typed_values(model, {"order_id": "A"})


def test_without_a_model_they_are_a_copy() -> None:
    values: dict[str, Any] = {"a": [1]}
    typed_values(None, values)["a"].append(2)
    assert values == {"a": [1]}
    assert opening_values(assistant(), values) is values


def test_a_validator_that_breaks_is_an_invalid_input() -> None:
    class Broken(BaseModel):
        a: int = 0

        @field_validator("a")
        @classmethod
        def never(cls, _: int) -> int:
            raise KeyError("oops")

    with pytest.raises(InvalidInput, match="KeyError"):
        opening_values(assistant(values=Broken), {"a": 1})


def test_a_thread_from_before_the_model_is_mended_by_a_change() -> None:
    agents = Agents.listed([assistant(values=Order)])
    state = fold(INITIAL, [ThreadOpened("assistant", {"items": []})])
    with pytest.raises(InvalidInput, match=r"values\.order_id"):
        check_change({"note": "late"}, state, agents)
    check_change({"order_id": "A"}, state, agents)
    check_change({"items": []}, state, agents)
    check_change({"anything": 1}, state, Agents({}))


def test_a_change_must_fit_the_version_that_the_turn_began_with() -> None:
    class Newer(BaseModel):
        order_id: str
        country: str

    old, new = (replace(assistant(values=model), version=v) for model, v in ((Order, "1"), (Newer, "2")))
    opened = ThreadOpened("assistant", {"order_id": "A"})
    turn = fold(INITIAL, [opened, TurnStarted(uuid4(), "route_intent", "", agent_version="1")])
    check_change({"order_id": "B"}, turn, Agents.listed([old, new]))
    with pytest.raises(InvalidInput, match=r"values\.order_id"):
        check_change({"order_id": None}, turn, Agents.listed([old, new]))
    needs_country = pytest.raises(InvalidInput, match=r"values\.country")
    with needs_country:  # the code of the turn's version is gone: the current version runs the turn
        check_change({"order_id": "B"}, turn, Agents.listed([new]))
    with needs_country:  # a fork that does not resume the turn
        check_change({"order_id": "B"}, turn, Agents.listed([old, new]), ends_turn=True)
    with needs_country:  # the next turn
        check_change({"order_id": "B"}, fold(INITIAL, [opened]), Agents.listed([old, new]))


def test_a_model_is_a_class_and_a_subgraph_has_no_other() -> None:
    async def run(_: TurnContext) -> Sequence[NodeEvent]:
        return []

    def graph(name: str, values: Any, *steps: Any) -> Graph:
        return Graph(name, steps[0].name, steps, {steps[0].name: END}, values=values)

    node = Node("only", run)
    for model in (dict, Order(order_id="A"), "Order"):
        with pytest.raises(InvalidGraph, match="values must be a class"):
            graph("wrong", model, node)
    inner = graph("inner", Order, node)
    graph("outer", Order, Subgraph("inner", inner))
    with pytest.raises(InvalidGraph, match="another model of values"):
        graph("outer", None, Subgraph("inner", inner))


async def test_a_tool_reads_them_typed_and_one_without_context_does_not_mind() -> None:
    @tool
    async def read(context: ToolContext) -> str:
        """Read the order."""
        return str(context.values.order_id)

    @tool
    async def other() -> str:
        """Do something else."""
        return "done"

    played = stage(assistant(tools=[read, other], values=Order), calls(("read", {}), ("other", {})), says("ok"))
    await played.say("go")  # opened without values: as if the graph had had no model then
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "InvalidInput: values.order_id: Field required"
    assert len(await played.happened(ToolSucceeded)) == 1
