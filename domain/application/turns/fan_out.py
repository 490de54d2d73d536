"""Fan-out over a list, and the join.

Each item's result is recorded as soon as it is there, so that an item is not processed again after a crash.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from domain.agents.agent import RETRY_ITEMS, Each, ItemContext
from domain.agents.callables import described, is_async
from domain.agents.graph import Graph, RetryPolicy, check_item_graph
from domain.agents.tools import Tool, ToolContext
from domain.agents.values import filled_values, typed_values
from domain.application.turns.fan_out_item import FanOutItem, ItemAttempts
from domain.application.turns.item_graph import run_item_graph
from domain.application.turns.node_attempt import NodeAttempt
from domain.application.turns.task_group import NodeTasks
from domain.application.turns.user_code import call_user_code
from domain.errors import ApprovalRequired, InvalidInput, ToolError, TurnIsOver
from domain.json import Json, copied
from domain.thread.commands import StartFanOut
from domain.thread.state import Item


async def run_fan_out(
    work: NodeAttempt,
    items: Sequence[Json],
    each: Each | Tool | Graph,
    *,
    at_once: int,
    retry: RetryPolicy | None,
    number: int = 0,
) -> Sequence[Json]:
    """Process the items that have no result yet, and return all results in the items' order.

    `number` counts the fan-outs of the attempt, from 0. `each` processes one item, `at_once` items at the same time;
    a tool is called with each item as its arguments, a graph is run with each item as its values.
    The first error that `retry` gives up on ends the rest.
    """
    run, before, name = work.run, work.state, ""
    if at_once < 1:
        raise InvalidInput("at_once", f"must be at least 1, not {at_once}")
    if isinstance(each, Graph):
        name, items = each.name, _begun(each, items, retry)
    elif isinstance(each, Tool):
        name, each = each.name, _each_calls(work, run.services.item_tool(each))
    elif not is_async(each):
        raise InvalidInput("each", f"must be an async function, a tool or a graph, not {described(each)}")
    if before.turn.items_of(number) is None:
        start = StartFanOut(run.turn_id, before.turn.step, tuple(items), run.number, number, name)
        if not await work.report(start):
            raise TurnIsOver
    gate = asyncio.Semaphore(at_once)
    group = NodeTasks()

    async def one(index: int, item: Item) -> None:
        async with gate:
            attempts = ItemAttempts(work, FanOutItem(work, before, index, number), retry or RETRY_ITEMS, group)
            if isinstance(each, Graph):
                await run_item_graph(attempts, each, item)
            else:
                await attempts.of_function(each, item)

    there = work.state.turn.items_of(number) or ()
    await group.run([one(index, item) for index, item in enumerate(there) if not item.done])
    return [copied(item.result) for item in work.state.turn.items_of(number) or ()]


def _begun(graph: Graph, items: Sequence[Json], retry: RetryPolicy | None) -> Sequence[Json]:
    """Return the values with which each item begins to run a graph. Raises `InvalidInput`, `InvalidGraph`."""
    check_item_graph(graph)
    if retry is not None:
        raise InvalidInput("retry", "a graph's nodes have retry policies of their own: Node(..., retry=...)")
    values = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidInput(
                f"items.{index}",
                f"must be an object, the values that {graph.name} begins with, not {type(item).__name__}",
            )
        try:
            values.append(item if graph.values is None else call_user_code(filled_values, graph.values, item))
        except InvalidInput as error:
            raise InvalidInput(f"items.{index}{error.field.removeprefix('values')}", error.why) from error
    return values


def _each_calls(work: NodeAttempt, tool: Tool) -> Each:
    """Return a function that calls a tool with each item as its arguments. Raises `InvalidInput`."""
    if not tool.idempotent or tool.approval is not False:
        raise InvalidInput(
            "each",
            f"the tool {tool.name!r} must be idempotent and need no approval: an item may run again after a crash. "
            "Request other calls with turn.request, and run them with turn.run_tools",
        )

    async def call(item: ItemContext, arguments: Json) -> Json:
        if not isinstance(arguments, dict):
            raise InvalidInput(
                "items", f"must be objects, the arguments of {tool.name}, not {type(arguments).__name__}"
            )
        thread, graph = item.state.thread, work.agent.graph
        context = ToolContext[Any](
            *(item.thread_id, item.idempotency_key, item.idempotency_key),
            *(thread.subject, work.run.actor or "", work.agent.deps),
            _values=partial(typed_values, graph.values, thread.values),
        )
        try:
            async with asyncio.timeout(tool.timeout):
                return cast("Json", await tool.run(arguments, context))
        except ApprovalRequired as asked:
            raise ToolError(f"{tool.name} cannot wait for a person within turn.map: {asked}") from asked

    return call
