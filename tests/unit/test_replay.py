"""Turns run again as they were recorded, and where another graph parts from them."""

from collections.abc import Sequence
from dataclasses import replace as replace_fields

import pytest
from msgspec.structs import replace

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import EDGES, NODES, assistant
from domain.agents.graph import Graph, Node
from domain.agents.tools import tool
from domain.application.command_handler import CommandRequest, execute
from domain.application.recall.search import MessageSearch
from domain.application.replay import Replay, ReplayedTurn
from domain.application.thread_repository import ThreadRepository
from domain.models.chat import ChatAnswer, ModelError, ToolCall, Usage
from domain.thread.codec import Metadata
from domain.thread.commands import DecideApproval
from domain.thread.events import END, ContextAssembled, HistoryCompacted, NodeEvent, ToolFailed
from domain.thread.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.recalling import All
from tests.support.runtime import Clock, Stage, Words, calls, double, says, stage


def sandbox() -> ThreadRepository:
    return ThreadRepository(MemoryEventStore(), MemorySnapshotStore(), Clock(), fingerprint="sandbox")


async def replayed(played: Stage, agent: Agent | None = None) -> Sequence[ReplayedTurn]:
    before = await played.events()
    replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock)
    turns = await replay.thread(played.thread_id, agent or played.agent)
    assert await played.events() == before, "a replay stores nothing"
    return turns


async def talk() -> Stage:
    played = stage(
        assistant(tools=[double], instructions="Be brief."),
        calls(("double", {"number": 5_000}), ("double", {"number": 4})),
        says("8"),
        says("you are welcome"),
    )
    await played.say("double four")
    await played.say("thanks")
    return played


async def test_with_the_same_agent_every_turn_is_as_recorded_and_nothing_is_called() -> None:
    played = await talk()
    asked = len(played.script.asked)

    async def never(_: object, __: object) -> str:
        raise AssertionError("a replay calls no tool")

    idle = replace_fields(played.agent, tools=[replace(double, run=never)])
    turns = await replayed(played, idle)
    assert [(turn.said, turn.parted) for turn in turns] == [("double four", None), ("thanks", None)]
    assert all(turn.prompts_then == turn.prompts_now for turn in turns)
    assert len(played.script.asked) == asked


async def test_calls_that_could_not_be_run_are_replayed_as_such() -> None:
    faulty = ToolCall("a", "double", {}, '{"number"', "The arguments cannot be read.")
    wrong = ToolCall("b", "double", {})  # whose arguments, as recorded, are the same
    asked = ChatAnswer(None, (faulty, wrong, ToolCall("c", "treble", {})), "tool_calls", "script", Usage(10, 2))
    played = stage(assistant(tools=[double]), asked, says("sorry"))
    await played.say("double it")
    errors = [event.error for event in await played.happened(ToolFailed) if isinstance(event, ToolFailed)]
    assert {error.partition(".")[0] for error in errors} == {
        "The arguments cannot be read",
        "double cannot be called like this: number: Field required",
        "There is no tool 'treble'",
    }
    (turn,) = await replayed(played)
    assert turn.parted is None


async def test_another_prompt_shows_in_the_tokens() -> None:
    played = await talk()
    turns = await replayed(played, replace_fields(played.agent, instructions="Be brief and very, very polite."))
    assert [turn.parted for turn in turns] == [None, None]
    assert [now - then for turn in turns for then, now in zip(turn.prompts_then, turn.prompts_now, strict=True)] == [
        4,
        4,
        4,
    ]


async def test_another_graph_parts_where_it_goes_another_way() -> None:
    played = await talk()
    other = replace_fields(
        played.agent, graph=Graph("assistant", "route_intent", NODES, {**EDGES, "execute_tool": "finalize_turn"})
    )
    first, second = await replayed(played, other)
    assert first.recorded == "execute_tool leads to generate_response"
    assert first.replayed == "execute_tool leads to finalize_turn"
    assert second.parted is None


async def test_a_tool_that_is_gone_is_told_and_so_the_turn_parts() -> None:
    played = await talk()
    first, _ = await replayed(played, replace_fields(played.agent, tools=[]))
    assert first.recorded == "a tool fails: That is too much."
    assert first.replayed is not None
    assert "There is no tool" in first.replayed


@pytest.mark.parametrize("decision", ["grant", "deny"])
async def test_what_people_decided_is_replayed_without_them(decision: str) -> None:
    @tool(approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    played = stage(assistant(tools=[pay]), calls(("pay", {"amount": 5})), says("done"))
    state = (await played.say("pay")).state
    assert isinstance(state, Running)
    (call,) = state.turn.calls
    decided = DecideApproval(call.version, call.hash, decision, told="No.", tokens=1)  # type: ignore[arg-type]
    outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (decided,)))
    await played.turns.run(outcome.loaded, Metadata())
    (turn,) = await replayed(played)
    assert turn.parted is None


async def test_a_summary_that_came_to_nothing_comes_to_nothing_again() -> None:
    async def compact(turn: TurnContext) -> Sequence[NodeEvent]:
        return await turn.compact()

    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        return await turn.generate()

    graph = Graph("solo", "c", [Node("c", compact), Node("g", answer)], {"c": "g", "g": END})
    long = "word " * 120
    played = stage(Agent(graph, "be"), *[says(long)] * 6, context_window=1_000)
    unreadable = ChatAnswer("no", (), "stop", "small", Usage(300, 5))
    summary = ChatAnswer('{"facts": ["x"]}', (), "stop", "small", Usage(300, 5))
    played.script.summaries += [unreadable, ModelError("busy"), summary]
    for _ in range(6):
        await played.say(long)
    assert len(await played.happened(HistoryCompacted)) > 0
    turns = await replayed(played)
    assert [(turn.recorded, turn.replayed) for turn in turns if turn.parted] == []


async def test_what_was_recalled_is_recalled_again() -> None:
    answers = [says(f"refund PEP4E0 answer {n} " + f"word{n} " * 40) for n in range(20)]
    played = stage(assistant(instructions=""), *answers, context_window=1_000)
    played.script.summaries += [ChatAnswer('{"facts": ["x"]}', (), "stop", "small")] * 20
    played.turns.services = replace_fields(played.turns.services, recall=MessageSearch(All()))
    for number in range(20):
        await played.say(f"refund PEP4E0 number {number} is asked here")
    prompts = await played.happened(ContextAssembled)
    assert any(prompt.recalled for prompt in prompts)  # type: ignore[attr-defined]
    turns = await replayed(played)
    assert [turn for turn in turns if turn.parted or turn.prompts_then != turn.prompts_now] == []


async def test_a_renamed_node_is_no_difference_if_it_has_an_alias() -> None:
    async def look(_: TurnContext) -> Sequence[NodeEvent]:
        return ()

    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("Done.")]

    def desk(first: Node, second: Node) -> Agent:
        return Agent(Graph("desk", first.name, [first, second], {first.name: second.name, second.name: END}))

    played = stage(desk(Node("look", look), Node("answer", answer)))
    await played.say("hello")
    (renamed,) = await replayed(played, desk(Node("search", look), Node("reply", answer)))
    assert renamed.parted is not None
    aliased = desk(Node("search", look, aliases=("look",)), Node("reply", answer, aliases=("answer",)))
    (same,) = await replayed(played, aliased)
    assert (same.parted, same.recorded, same.replayed) == (None, None, None)
