"""What a tool knows about the call that it runs for: the customer, the sender, the values and its dependencies."""

from collections.abc import Sequence
from typing import Any

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node
from domain.agents.tools import ToolContext, tool
from domain.application.command_handler import CommandRequest, execute
from domain.errors import InvalidInput, ThreadAlreadyOpen
from domain.ids import CommandId
from domain.thread.codec import Metadata
from domain.thread.commands import Command, OpenThread, RetryTurn, StartTurn
from domain.thread.decide import decide
from domain.thread.events import END, NodeEvent, Strategy, ToolSucceeded, TurnFailed
from domain.thread.evolve import fold
from domain.thread.state import INITIAL
from tests.support.given import OTHER_TURN, TURN
from tests.support.runtime import Stage, calls, says, stage


class Shop:
    """What tools are given."""

    def __init__(self) -> None:
        self.asked: list[str] = []


@tool
async def whose(context: ToolContext[Shop], order: str = "A-17") -> dict[str, Any]:
    """Say whose order it is."""
    context.deps.asked.append(order)
    context.values["order"] = "changed"
    return {"subject": context.subject, "actor": context.actor, "values": context.values}


def start(played: Stage, number: int = 0, strategy: Strategy = "reject") -> StartTurn:
    graph = played.agent.graph
    return StartTurn((TURN, OTHER_TURN)[number], "go", 1, graph.first, graph.fingerprint, strategy)


async def act(played: Stage, actor: str | None, *commands: Command) -> Any:
    command = CommandId(played.account.new_id())
    request = CommandRequest(played.thread_id, lambda _: commands, Metadata(command, actor=actor))
    return (await execute(played.repository, request)).loaded


async def results(played: Stage) -> list[str]:
    return [event.content for event in await played.happened(ToolSucceeded) if isinstance(event, ToolSucceeded)]


async def test_a_tool_knows_the_customer_the_sender_the_values_and_its_dependencies() -> None:
    shop = Shop()
    played = stage(assistant(tools=[whose], deps=shop), calls(("whose", {"order": "B-2"})), says("yours"))
    opening = OpenThread("assistant", {"order": "A-17"}, "customer-17")
    loaded = await act(played, "anna", opening, start(played))
    await played.turns.run(loaded, Metadata())
    assert shop.asked == ["B-2"]
    assert await results(played) == ['{"subject":"customer-17","actor":"anna","values":{"order":"A-17"}}']
    assert list(whose.spec.parameters["properties"]) == ["order"]


async def test_without_any_of_them_it_knows_nothing() -> None:
    @tool
    def plain(context: ToolContext) -> str:
        """Say what there is."""
        return f"{context.subject!r} {context.actor!r} {context.values} {context.deps}"

    played = stage(assistant(tools=[plain]), calls(("plain", {})), says("nothing"))
    await played.say("go")
    assert await results(played) == ["'' '' {} None"]


async def test_the_sender_of_a_queued_message_is_known_to_its_own_turn() -> None:
    shop = Shop()
    lines = (calls(("whose", {})), says("one"), calls(("whose", {})), says("two"))
    played = stage(assistant(tools=[whose], deps=shop), *lines)
    await act(played, "anna", OpenThread("assistant"), start(played))
    await act(played, "bert", start(played, 1, "enqueue"))
    async with played.worker().working():
        await played.settled()
    assert ['"actor":"anna"' in text for text in await results(played)] == [True, False]
    assert ['"actor":"bert"' in text for text in await results(played)] == [False, True]


async def test_a_retry_answers_the_message_of_the_one_who_sent_it() -> None:
    attempts: list[int] = []

    async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return turn.request("whose")

    async def run(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.run_tools()
        return []

    graph = Graph("shop", "ask", [Node("ask", ask), Node("run", run)], {"ask": "run", "run": END})
    played = stage(Agent(graph, tools=[whose], deps=Shop()))
    loaded = await act(played, "anna", OpenThread("shop"), start(played))
    await played.turns.run(loaded, Metadata())
    assert await played.happened(TurnFailed)
    loaded = await act(played, "bert", RetryTurn(TURN, OTHER_TURN, played.agent.graph.fingerprint))
    await played.turns.run(loaded, Metadata())
    assert await results(played) == ['{"subject":"","actor":"anna","values":{}}']


def test_a_subject_is_bounded_and_does_not_change() -> None:
    with pytest.raises(InvalidInput, match="subject"):
        decide(OpenThread("a", {}, "x" * 201), INITIAL)
    opened = fold(INITIAL, decide(OpenThread("a", {}, "x" * 200), INITIAL))
    assert decide(OpenThread("a", {}, "x" * 200), opened) == ()
    with pytest.raises(ThreadAlreadyOpen):
        decide(OpenThread("a", {}, "y"), opened)
