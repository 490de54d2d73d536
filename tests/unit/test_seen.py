"""The prompts of a turn are reconstructed as they were sent, whatever happened to the thread since."""

from collections.abc import Sequence
from dataclasses import replace as replace_fields
from typing import Literal
from uuid import uuid4

import pytest

from api.schemas.prompts import PromptView, QuestionView
from domain.agents.agent import Agent, ItemContext, ItemNodeContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node
from domain.agents.tools import tool
from domain.application.command_handler import CommandRequest, execute
from domain.application.queries.prompts import RecordedPrompt, TurnPrompts
from domain.application.recall.search import MessageSearch
from domain.ids import TurnId, Version
from domain.json import Json
from domain.models.chat import ChatAnswer, ChatMessage, ChatRequest, OnDelta
from domain.thread.codec import Metadata
from domain.thread.commands import OpenThread, StartTurn, UpdateValues
from domain.thread.events import (
    END,
    CancellationRequested,
    ContextAssembled,
    Durability,
    NodeEvent,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.state import Running
from tests.support.recalling import All
from tests.support.runtime import Stage, Words, calls, one_node, says, stage


@tool(idempotent=True)
async def big(number: int) -> str:
    """Say much."""
    return f"result {number} PEP4E0 refund " + "word " * 300


async def shown(played: Stage) -> list[RecordedPrompt]:
    loaded = await played.repository.load(played.thread_id)
    turns = [event.turn_id for event in await played.events() if isinstance(event, TurnStarted)]
    found: list[RecordedPrompt] = []
    for turn_id in turns:  # one after the other
        prompts = TurnPrompts(played.repository, played.texts, Words(), loaded)
        page = await prompts.page(TurnId(turn_id))
        found += page.prompts
        while page.next_after:
            page = await prompts.page(TurnId(turn_id), page.next_after)
            found += page.prompts
    return found


async def test_prompts_that_do_not_fit_come_with_the_next_page(monkeypatch: pytest.MonkeyPatch) -> None:
    played = stage(assistant(tools=[big]), calls(("big", {"number": 1})), calls(("big", {"number": 2})), says("done"))
    await played.say("go on")
    whole = await shown(played)
    monkeypatch.setattr("domain.application.queries.prompts.MAX_PAGE_BYTES", 1)
    loaded = await played.repository.load(played.thread_id)
    (started,) = await played.happened(TurnStarted)
    assert isinstance(started, TurnStarted)

    prompts = TurnPrompts(played.repository, played.texts, Words(), loaded)
    page = await prompts.page(TurnId(started.turn_id))

    assert [prompt.version for prompt in page.prompts] == [page.next_after]
    assert await shown(played) == whole
    assert len(whole) == 3


def sent(played: Stage) -> list[list[ChatMessage]]:
    return [list(request.messages) for request in played.script.asked]


def recalling(agent: Agent, *lines: ChatAnswer) -> Stage:
    played = stage(agent, *lines, context_window=1_000)
    played.turns.services = replace_fields(played.turns.services, recall=MessageSearch(All()))
    return played


def shown_twice(prompt: RecordedPrompt) -> set[Version]:
    pieces = prompt.prompt.pieces
    return {p.version for p in pieces if p.kind == "message"} & {p.version for p in pieces if p.kind == "recalled"}


async def open_with(played: Stage, stage_is: str) -> None:
    opening = OpenThread(played.agent.name, {"stage": stage_is})
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (opening,)))


class TestValues:
    async def test_what_a_node_does_with_its_values_changes_no_prompt(self) -> None:
        async def node(turn: TurnContext) -> Sequence[NodeEvent]:
            turn.state.thread.values["stage"] = "mine"
            return await turn.generate()

        played = stage(replace_fields(one_node(node), shown_values=("stage",)), says("hi"))
        await open_with(played, "log")
        await played.say("hello")
        assert 'stage: "log"' in (sent(played)[0][0].content or "")
        assert [list(prompt.prompt.messages) for prompt in await shown(played)] == sent(played)

    @pytest.mark.parametrize("durability", ["sync", "turn", "async"])
    async def test_values_are_shown_as_the_model_saw_them_though_they_change_meanwhile(
        self, durability: Durability
    ) -> None:
        async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
            return await turn.generate()

        graph = Graph("solo", "a", [Node("a", ask), Node("b", ask)], {"a": "b", "b": END})
        played = stage(Agent(graph, "be", shown_values=("stage",)), says("one"), says("two"))
        answer = played.script.complete

        async def patching(request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            update = UpdateValues({"stage": f"patched {len(played.script.asked)}"})
            await execute(played.repository, CommandRequest(played.thread_id, lambda _: (update,)))
            return await answer(request, on_delta)

        played.script.complete = patching  # type: ignore[method-assign]
        await open_with(played, "log")
        start = StartTurn(TurnId(uuid4()), "hello", 1, graph.first, graph.fingerprint, durability=durability)
        begun = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (start,)))
        await played.turns.run(begun.loaded, Metadata())
        found = await shown(played)
        assert [list(prompt.prompt.messages) for prompt in found] == sent(played)
        assert all(prompt.prompt.exact for prompt in found)


class TestRecalled:
    async def test_the_pinned_question_is_not_recalled(self) -> None:
        asks = [calls(("big", {"number": n})) for n in range(5)]
        played = recalling(assistant(instructions="", tools=[big]), *asks, says("done"))
        await played.say("What about the PEP4E0 refund?")
        found = await shown(played)
        assert any(prompt.assembled.pinned for prompt in found)
        assert not [prompt for prompt in found if shown_twice(prompt)]

    async def test_what_the_window_shows_is_not_recalled(self) -> None:
        answers = [says(f"refund PEP4E0 answer {n} " + f"word{n} " * 40) for n in range(24)]
        played = recalling(assistant(instructions=""), *answers)
        for number in range(24):
            await played.say(f"refund PEP4E0 number {number}")
        found = await shown(played)
        assert any(prompt.assembled.recalled for prompt in found)
        assert not [prompt for prompt in found if shown_twice(prompt)]

    async def test_a_turn_that_was_rolled_back_still_shows_what_it_recalled_of_itself(self) -> None:
        asks = [calls(("big", {"number": n})) for n in range(4)]
        played = recalling(assistant(instructions="", tools=[big]), *asks, says("done"))
        answer = played.script.complete

        async def rolling_back(request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
            answered = await answer(request, on_delta)
            loaded = await played.repository.load(played.thread_id)
            if len(played.script.asked) == 4 and isinstance(loaded.state, Running):
                rolled_back = CancellationRequested(loaded.state.turn.turn_id, "rolled_back")
                await played.repository.append(played.repository.chain(loaded, [rolled_back], Metadata()))
            return answered

        played.script.complete = rolling_back  # type: ignore[method-assign]
        await played.say("What about the PEP4E0 refund?")
        assert isinstance((await played.events())[-1], TurnRolledBack)
        found = await shown(played)
        assert any(prompt.assembled.recalled for prompt in found)
        assert all(prompt.prompt.exact for prompt in found)
        assert [list(prompt.prompt.messages) for prompt in found] == sent(played)


async def test_instructions_that_cannot_be_stored_are_shown_without_what_cannot() -> None:
    played = stage(assistant(instructions="be \ud800 brief\0"), says("hi"))
    await played.say("hello")
    (prompt,) = await shown(played)
    assert prompt.prompt.exact
    assert prompt.prompt.messages[0].content == "be \ufffd brief\ufffd"
    assert [list(prompt.prompt.messages)] == sent(played)


async def test_of_a_prompt_of_an_older_release_nobody_knows_what_else_it_held() -> None:
    played = stage(assistant(instructions="be brief"))
    begun = await played.begin("hello")
    old = ContextAssembled(3, 3, 500, 1_000)  # with 496 tokens of instructions that were not recorded then
    await played.repository.append(played.repository.chain(begun.loaded, [old], Metadata()))
    (prompt,) = await shown(played)
    view = PromptView.of(prompt)
    assert (view.exact, view.everything, view.saved) == (False, None, None)
    assert [piece.text for piece in view.pieces] == ["hello"]


async def test_questions_of_an_items_graph_are_shown_with_the_item_and_its_node() -> None:
    async def spell(item: ItemNodeContext) -> Sequence[NodeEvent]:
        return [item.update(spelt=await item.ask(f"Spell {item.values['word']}"))]

    spelling = Graph("spelling", "spell", [Node("spell", spell)], {"spell": END})

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.map([{"word": "a"}, {"word": "b"}], spelling, at_once=1)
        return [turn.say("done")]

    played = stage(one_node(work), says("A"), says("B"))
    await played.say("go")
    (started,) = await played.happened(TurnStarted)
    assert isinstance(started, TurnStarted)
    loaded = await played.repository.load(played.thread_id)
    page = await TurnPrompts(played.repository, played.texts, Words(), loaded).page(TurnId(started.turn_id))
    views = [QuestionView.of(question) for question in page.questions]
    assert [(view.prompt, view.item, view.item_node) for view in views] == [
        ("Spell a", 0, "spell"),
        ("Spell b", 1, "spell"),
    ]


async def test_questions_of_nodes_and_items_are_shown_with_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def each(item: ItemContext, word: Json) -> Json:
        return await item.ask(f"Spell {word}")

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        intent = await turn.ask("Which intent?", "You classify.", output=Literal["refund", "other"])
        await turn.map(["a", "b"], each, at_once=1)
        return [turn.update(intent=intent), *await turn.generate()]

    played = stage(one_node(work), *map(says, ("refund", "A", "B", "done")))
    await played.say("go")
    (started,) = await played.happened(TurnStarted)
    assert isinstance(started, TurnStarted)
    loaded = await played.repository.load(played.thread_id)
    prompts = TurnPrompts(played.repository, played.texts, Words(), loaded)
    page = await prompts.page(TurnId(started.turn_id))
    asked = [(q.answered.prompt, q.answered.content, q.answered.item) for q in page.questions]
    assert asked == [("Which intent?", "refund", None), ("Spell a", "A", 0), ("Spell b", "B", 1)]
    assert page.questions[0].answered.instructions == "You classify."
    assert all(question.called and question.called.model == "script" for question in page.questions)
    assert len(page.prompts) == 1

    monkeypatch.setattr("domain.application.queries.prompts.MAX_PAGE_BYTES", 1)
    first = await prompts.page(TurnId(started.turn_id))
    assert (first.questions, first.next_after) == (page.questions[:1], page.questions[0].version)
    second = await prompts.page(TurnId(started.turn_id), page.questions[0].version)
    assert second.questions == page.questions[1:2]
