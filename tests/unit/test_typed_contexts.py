"""The types of `values` in nodes and tools. mypy checks each `assert_type` in its normal run."""

from collections.abc import Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from domain.thread.events import MessageAppended
from tests.support.runtime import stage
from threadfold import END, Agent, Graph, ItemNodeContext, Node, NodeEvent, ToolContext, TurnContext, tool


class Return(BaseModel):
    order: str = "A-17"


class Shop:
    name = "shop"


@tool
async def look_up(context: ToolContext[Shop, Return]) -> str:
    """Look up the order."""
    assert_type(context.deps, Shop)
    assert_type(context.values, Return)
    assert_type(context.values.order, str)
    return f"{context.values.order} of {context.deps.name}"


@tool
async def only_deps(context: ToolContext[Shop]) -> str:
    """Use what is not a value."""
    assert_type(context.deps, Shop)
    assert_type(context.values, Any)
    return context.deps.name


@tool
async def untyped(context: ToolContext) -> str:
    """Use anything."""
    assert_type(context.deps, Any)
    assert_type(context.values, Any)
    return str(context.values.order)


async def begin(turn: TurnContext[Return]) -> Sequence[NodeEvent]:
    assert_type(turn.values, Return)
    assert_type(turn.values.order, str)
    return [turn.say(any_context(turn)), *turn.request("look_up")]


async def run(turn: TurnContext) -> Sequence[NodeEvent]:
    assert_type(turn.values, Any)
    return [turn.say(", ".join(outcome.content for outcome in await turn.run_tools()))]


async def each(item: ItemNodeContext[Return], any_item: ItemNodeContext) -> None:
    assert_type(item.values, Return)
    assert_type(any_item.values, Any)


def any_context(turn: TurnContext) -> str:
    """Take the context of any node, as helpers of authors do."""
    return str(turn.values.order)


async def test_values_are_instances_of_the_annotated_model() -> None:
    nodes, edges = [Node("begin", begin), Node("run", run)], {"begin": "run", "run": END}
    agent = Agent(Graph("desk", "begin", nodes, edges, values=Return), tools=[look_up, only_deps, untyped], deps=Shop())
    played = stage(agent)
    await played.say("go")
    said = [event.content for event in await played.happened(MessageAppended) if isinstance(event, MessageAppended)]
    assert (said[1], said[-1]) == ("A-17", "A-17 of shop")
