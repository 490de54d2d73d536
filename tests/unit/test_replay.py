"""Turns run again as they were recorded, and where another graph parts from them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace as replace_fields

import pytest
from msgspec.structs import replace

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.assistant import EDGES, NODES, assistant
from domain.agents.graph import Graph, Node
from domain.agents.tools import Tool, tool
from domain.application.command_handler import CommandRequest, CommandResult, execute
from domain.application.recall.search import MessageSearch
from domain.application.replay.compare import ReplayedTurn
from domain.application.replay.replay import Replay
from domain.application.thread_repository import ThreadRepository
from domain.application.turns.model_registry import ModelRegistry
from domain.json import Json
from domain.models.chat import AnswerInvalid, ChatAnswer, ModelError, ToolCall, Usage
from domain.thread.codec import Metadata
from domain.thread.commands import AnswerQuestion, DecideApproval
from domain.thread.events import (
    END,
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelAnswered,
    NodeEvent,
    ToolFailed,
    ToolRequested,
    TurnCompleted,
)
from domain.thread.state import Running
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.recalling import All
from tests.support.runtime import Clock, Script, Stage, Words, calls, double, one_node, says, stage


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


class TestAnswersOutsideOfTheConversation:
    """An unchanged agent replays exactly, whatever its nodes ask."""

    async def exactly(self, run: object, *lines: ChatAnswer, tools: Sequence[Tool] = ()) -> Stage:
        played = stage(one_node(run, tools=tools), *lines)
        await played.say("go")
        assert isinstance((await played.events())[-1], TurnCompleted)
        (turn,) = await replayed(played)
        assert (turn.parted, turn.unknown) == (None, None)
        assert turn.then.answer == turn.now.answer
        return played

    async def test_a_question_before_the_answer(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            intent = await turn.ask("What is it?")
            return [*await turn.generate(), turn.update(intent=intent)]

        await self.exactly(work, says("refund"), says("Here you are."))

    async def test_an_answer_that_the_node_drops(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            inner = await turn.generate("Classify.")
            text = next(event.content for event in inner if isinstance(event, MessageAppended))
            return [turn.update(intent=text), *await turn.generate()]

        await self.exactly(work, says("refund"), says("Here you are."))

    async def test_the_first_answer_is_recorded_and_the_second_is_dropped(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            first = await turn.generate()
            second = await turn.generate("Check.", show=False)
            text = next(event.content for event in second if isinstance(event, MessageAppended))
            return [*first, turn.update(check=text)]

        await self.exactly(work, says("Here you are."), says("fine"))

    async def test_an_answer_that_the_node_changes(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [
                replace(event, content=f"{event.content}!") if isinstance(event, MessageAppended) else event
                for event in await turn.generate()
            ]

        await self.exactly(work, says("Here you are."))

    async def test_only_the_text_of_an_answer_is_used(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            said = [event for event in await turn.generate() if isinstance(event, MessageAppended)]
            return [turn.say(str(said[0].content).upper())]

        await self.exactly(work, says("Here you are."))

    async def test_calls_that_the_node_drops(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            events = await turn.generate()
            wanted = [event for event in events if isinstance(event, ToolRequested)]
            return [turn.say(f"not now: {wanted[0].tool} {wanted[0].arguments}")]

        await self.exactly(work, calls(("double", {"number": 4})), tools=[double])

    async def test_items_ask_at_the_same_time(self) -> None:
        async def each(item: ItemContext, word: Json) -> Json:
            await asyncio.sleep(0.002 * (3 - len(word)))
            return await item.ask(f"Spell {word}")

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            spelt = await turn.map(["a", "bb", "ccc"], each)
            return [turn.say(" ".join(spelt)), *await turn.generate()]

        async def both(turn: TurnContext) -> Sequence[NodeEvent]:
            events = await turn.generate()
            await turn.map(["a", "bb"], each)
            return events

        await self.exactly(work, says("1"), says("2"), says("3"), says("done"))
        await self.exactly(both, says("done"), says("1"), says("2"))

    async def test_an_answer_that_was_corrected(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            number = await turn.ask("How many?", output=int)
            return [turn.say(str(number)), *await turn.generate()]

        await self.exactly(work, says("many"), says("3"), says("done"))

    async def test_an_answer_that_does_not_fit_and_is_caught(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            try:
                number = await turn.ask("How many?", output=int)
            except AnswerInvalid:
                number = 0
            return [turn.say(str(number)), *await turn.generate()]

        played = await self.exactly(work, says("many"), says("some"), says("done"))
        (answered,) = await played.happened(ModelAnswered)
        assert isinstance(answered, ModelAnswered)
        assert (answered.content, answered.fits) == ("some", False)

    async def test_a_question_that_was_not_asked_cannot_be_known(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(await turn.ask("What is it?")), *await turn.generate()]

        async def other(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(await turn.ask("What is that?")), *await turn.generate()]

        played = await self.exactly(work, says("a refund"), says("done"))
        (turn,) = await replayed(played, one_node(other))
        assert turn.parted is not None
        assert turn.unknown is not None
        assert turn.unknown.endswith("(it was not asked then): What is that?")
        assert turn.now.outcome == "failed"
        assert "done" not in (turn.replayed or ""), "no other call's answer is used"

    async def test_people_and_customers_answer_as_recorded(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            order = await turn.ask_customer("Which order?")
            allowed = await turn.ask_person(f"Refund {order}?", bool)
            return [turn.say(f"{order}: {allowed}")]

        played = stage(one_node(work))
        await played.say("money back")
        await played.begin("A-17")
        async with played.worker().working():
            state = await played.settled()
        assert isinstance(state, Running)
        (question,) = state.turn.open_questions
        answer = AnswerQuestion(question.version, question.hash, answer=True)
        await execute(played.repository, CommandRequest(played.thread_id, lambda _: (answer,)))
        async with played.worker().working():
            await played.settled()
        (turn,) = await replayed(played)
        assert (turn.parted, turn.unknown, turn.now.answer) == (None, None, "A-17: True")

    async def test_a_log_without_inner_answers_says_so(self) -> None:
        async def each(item: ItemContext, _: Json) -> Json:
            return await item.ask("Spell it")

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            spelt = await turn.map(["a"], each)
            return [turn.say(" ".join(spelt)), *await turn.generate()]

        played = stage(one_node(work), says("1"), says("done"))
        begun = await played.begin("go")
        kept = [
            event for event in await _events_of_another(played, begun, work) if not isinstance(event, ModelAnswered)
        ]
        await played.repository.append(played.repository.chain(begun.loaded, kept, Metadata()))
        (turn,) = await replayed(played)
        assert turn.unknown is not None
        assert "its log was written before such answers were recorded" in turn.unknown


async def _events_of_another(played: Stage, begun: CommandResult, work: object) -> Sequence[Event]:
    """Run the same turn in another thread, and return the events after its start."""
    other = stage(one_node(work), *played.script.lines)
    await other.say("go")
    turn = begun.loaded.state
    assert isinstance(turn, Running)
    events = (await other.events())[3:]
    return [replace(event, turn_id=turn.turn.turn_id) if hasattr(event, "turn_id") else event for event in events]


async def test_a_live_model_shows_what_other_instructions_change() -> None:
    played = await talk()
    live = Script([calls(("double", {"number": 5_000}), ("double", {"number": 4})), says("eight"), says("bye")])
    replay = Replay(
        played.repository, sandbox, Words(), played.context_window, played.clock, ModelRegistry.alone(live, "script")
    )
    first, second = await replay.thread(played.thread_id, played.agent, live=True)
    assert (first.recorded, first.replayed) == ("the assistant says: 8", "the assistant says: eight")
    assert [use.arguments for use in first.now.tools] == [{"number": 5_000}, {"number": 4}]
    assert (second.then.answer, second.now.answer) == ("you are welcome", "bye")
    assert (second.then.outcome, second.then.prompt_tokens, second.then.completion_tokens) == ("completed", 10, 2)
    assert len(live.asked) == 3


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
