"""Outcomes of tool calls as values: nodes get them from `run_tools`, branches from the state."""

import asyncio
from collections.abc import Sequence

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Branch, Edge, Graph, Node
from domain.agents.outcomes import ToolOutcome, outcomes
from domain.agents.tools import tool
from domain.application.command_handler import CommandRequest, execute
from domain.errors import ToolError
from domain.thread.codec import Metadata
from domain.thread.commands import DecideApproval
from domain.thread.events import END, MessageAppended, NodeEvent
from domain.thread.state import Running
from tests.support.runtime import Stage, calls, says, stage

ALL = calls(("pay", {"amount": 5}), ("fail", {}), ("hang", {}), ("missing", {"a": [1]}), ("pay", {"amount": 6}))


@tool(approval=True)
async def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@tool
async def fail() -> str:
    """Fail."""
    raise ToolError("no")


@tool(timeout=0.01)
async def hang() -> str:
    """Hang."""
    await asyncio.sleep(60)
    return "never"


class Watched:
    """An agent that asks, runs tools, branches on their outcomes, and says which way it went."""

    def __init__(self) -> None:
        self.returned: list[Sequence[ToolOutcome]] = []
        self.branched: list[Sequence[ToolOutcome]] = []

    @property
    def agent(self) -> Agent:
        nodes = [Node("ask", self.ask), Node("run", self.run), Node("well", self.well), Node("badly", self.badly)]
        branch = Branch(self.choose, {"well": "well", "badly": "badly"})
        edges: dict[str, Edge] = {"ask": "run", "run": branch, "well": END, "badly": END}
        return Agent(Graph("watched", "ask", nodes, edges), tools=[pay, fail, hang])

    async def ask(self, turn: TurnContext) -> Sequence[NodeEvent]:
        return await turn.generate()

    async def run(self, turn: TurnContext) -> Sequence[NodeEvent]:
        self.returned.append(await turn.run_tools())
        return []

    def choose(self, state: Running) -> str:
        self.branched.append(outcomes(state))
        return "well" if all(outcome.status == "succeeded" for outcome in outcomes(state)) else "badly"

    async def well(self, turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("well")]

    async def badly(self, turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("badly")]


async def decide(played: Stage, number: int, decision: str, arguments: dict[str, object] | None = None) -> None:
    state = (await played.repository.load(played.thread_id)).state
    assert isinstance(state, Running)
    call = state.turn.calls[number]
    command = DecideApproval(call.version, call.hash, decision, arguments, told="refused")  # type: ignore[arg-type]
    decided = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (command,)))
    played.forget_hot()
    await played.turns.run(decided.loaded, Metadata())


async def test_every_call_has_one_whatever_became_of_it() -> None:
    watched = Watched()
    played = stage(watched.agent, ALL)
    assert (await played.say("go")).state.waiting
    assert watched.returned == []
    await decide(played, 1, "deny")
    await decide(played, 0, "grant", {"amount": 4})
    (returned,) = watched.returned
    assert watched.branched == [returned]
    late = "hang did not answer within 0.01 s. It may have had its effect."
    assert list(returned) == [
        ToolOutcome("pay", "call_0", {"amount": 4}, "succeeded", "paid 4"),
        ToolOutcome("fail", "call_1", {}, "failed", "no"),
        ToolOutcome("hang", "call_2", {}, "unknown", late),
        ToolOutcome("missing", "call_3", {"a": [1]}, "failed", returned[3].content),
        ToolOutcome("pay", "call_4", {"amount": 6}, "denied", "refused"),
    ]
    assert returned[3].content.startswith("There is no tool 'missing'.")


@pytest.mark.parametrize(("decision", "way"), [("grant", "well"), ("deny", "badly")])
async def test_a_branch_goes_by_them(decision: str, way: str) -> None:
    watched = Watched()
    played = stage(watched.agent, calls(("pay", {"amount": 5})))
    await played.say("go")
    await decide(played, 0, decision)
    last = (await played.happened(MessageAppended))[-1]
    assert isinstance(last, MessageAppended)
    assert last.content == way


async def test_there_are_none_without_calls() -> None:
    watched = Watched()
    await stage(watched.agent, says("no tools needed")).say("go")
    assert watched.returned == watched.branched == [()]


async def test_changing_one_changes_nothing() -> None:
    watched = Watched()
    played = stage(watched.agent, calls(("missing", {"a": 1})))
    loaded = await played.say("go")
    watched.returned[0][0].arguments.clear()
    played.forget_hot()
    assert (await played.repository.load(played.thread_id)).state == loaded.state
