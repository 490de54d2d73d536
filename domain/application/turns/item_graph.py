"""An item of a fan-out that runs a graph: its nodes, one after the other, with values of the item's own.

Each node's end is recorded with the item's values, so that after a crash the item goes on at the next node.
"""

from functools import cached_property
from typing import Any, NoReturn

from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.graph import ITEM_ADVICE, Graph, Node, alias_advice, item_refusal
from domain.agents.values import typed_values
from domain.application.turns.fan_out_item import FanOutItem, ItemAttempts
from domain.application.turns.returned_events import returned_events
from domain.application.turns.turn_cause import message_of
from domain.application.turns.user_code import call_user_code
from domain.errors import InvalidGraph, InvalidInput
from domain.ids import ThreadId
from domain.json import Json, JsonObject, check_fields, copied, merge_patch
from domain.thread.commands import AdvanceItem, CompleteItem
from domain.thread.events import END, StateUpdated
from domain.thread.size_limits import check_is_json
from domain.thread.state import Item, Running


async def run_item_graph(attempts: ItemAttempts, graph: Graph, item: Item) -> None:
    """Run the nodes that an item has not completed yet. Its values at the end are its result.

    Raises:
        InvalidGraph: the graph does not have the item's next node any more, or the item took too many steps.
    """
    context, run = attempts.item, attempts.work.run
    values = item.values if item.step else item.value
    if not isinstance(values, dict):  # the list was begun by other code, with a function instead of a graph
        raise InvalidInput(f"items.{context.index}", f"must be an object, the values that {graph.name} begins with")
    step, name, attempt = item.step, item.node or graph.first, item.attempt
    while name != END:
        node = graph.find(name)
        if node is None:
            raise InvalidGraph(
                f"Item {context.index} stands at the node {name!r}, which {graph.name} does not have. "
                f"{alias_advice(name)}."
            )
        if step >= graph.step_limit:
            raise InvalidGraph(f"Item {context.index} took {step} steps, the limit of the graph {graph.name!r}")
        at = _ItemNode(attempts.item, graph, node, step, values)

        def done(result: tuple[JsonObject, str], duration_ms: int, at: "_ItemNode" = at) -> AdvanceItem | CompleteItem:
            after, following = result
            place, more = (run.turn_id, context.state.turn.step, context.index), (run.number, (), context.fan_out)
            if following == END:
                return CompleteItem(*place, after, (), duration_ms, run.number, context.fan_out)
            return AdvanceItem(*place, at.step, at.node.name, following, after, duration_ms, *more)

        context.node = node.name
        where = f"node {node.name!r} of item {context.index} of node {context.state.turn.node!r} of {run.place}"
        values, name = await attempts.until_done(attempt, where, at.run, done, node.retry, node.timeout)
        step, attempt = step + 1, 1


class _ItemNode:
    """The context of one node of an item's graph. Implements `domain.agents.agent.ItemNodeContext`."""

    def __init__(self, item: FanOutItem, graph: Graph, node: Node, step: int, values: JsonObject) -> None:
        self.node = node
        self.step = step
        self.ask = item.ask
        self._item = item
        self._graph = graph
        self._values = values

    async def run(self) -> tuple[JsonObject, str]:
        """Run the node. Returns the item's values after it, and the node that the graph chooses next."""
        after = self._changed(await self.node.run(self))
        typed_values(self._graph.values, after)
        return after, call_user_code(self._graph.after, self.node.name, self._with(after))

    @property
    def thread_id(self) -> ThreadId:
        return self._item.thread_id

    @property
    def agent(self) -> Agent:
        return self._item.work.agent

    @cached_property
    def state(self) -> Running:
        return self._with(self._values)

    @property
    def values(self) -> Any:
        return typed_values(self._graph.values, self._values)

    @property
    def subject(self) -> str:
        return self._item.state.thread.subject

    @property
    def user_input(self) -> str:
        return message_of(self._item.state)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this node of this item, different for every other one."""
        return f"{self._item.idempotency_key}:{self.step}"

    def update(self, **values: Json) -> StateUpdated:
        for name, value in values.items():
            check_is_json(value, f"update.{name}")
        return StateUpdated(values)

    def __getattr__(self, name: str) -> NoReturn:
        if name in ITEM_ADVICE:
            raise InvalidGraph(f"{self._graph.name}: {item_refusal(self.node.name, name)}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def _with(self, values: JsonObject) -> Running:
        state = self._item.state
        return replace(state, thread=replace(state.thread, values=copied(values)))

    def _changed(self, events: object) -> JsonObject:
        """Return the item's values after a node's events. Raises `InvalidInput` for what a node must not return."""
        values: JsonObject = dict(copied(self._values))
        for index, event in enumerate(returned_events(events)):
            if not isinstance(event, StateUpdated):
                raise InvalidInput(
                    f"facts.{index}",
                    f"a node that turn.map runs for an item can change the item's values with update, and record "
                    f"nothing else, not a {type(event).__name__}",
                )
            check_fields(event, f"facts.{index}.")
            values = merge_patch(values, copied(event.changes))
        return values
