"""Compaction of the live window, by a model's summary or by an extract. The log keeps everything."""

import pytest

from domain.agents.assistant import assistant
from domain.application.turns.model_registry import ModelRegistry
from domain.models.chat import ChatAnswer, ModelError, Usage
from domain.models.routing import ModelSpec, Policy, Rule
from domain.thread.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    ModelFailed,
    TurnFailed,
)
from tests.support.runtime import Script, Stage, says, stage

LONG = "word " * 120
WINDOW = 1_000


def remembers(fact: str) -> ChatAnswer:
    return ChatAnswer(f'{{"facts": ["{fact}"]}}', (), "stop", "small", Usage(300, 20))


async def talking(played: Stage, turns: int) -> None:
    for _ in range(turns):
        await played.say(LONG)


def a_long_talk(*summaries: ChatAnswer | ModelError) -> Stage:
    played = stage(assistant(instructions=""), *[says(LONG)] * 20, context_window=WINDOW)
    played.script.summaries += summaries
    return played


async def prompts(played: Stage) -> list[int]:
    return [event.tokens for event in await played.events() if isinstance(event, ContextAssembled)]


class TestSummaries:
    async def test_a_model_writes_the_summary_and_is_told_of_the_last_one(self) -> None:
        played = a_long_talk(remembers("the user is Mia"), remembers("the user is Mia Li"))
        await talking(played, 7)
        compacted = await played.happened(HistoryCompacted)
        assert [fact.summary for fact in compacted] == ["Facts:\n- the user is Mia", "Facts:\n- the user is Mia Li"]  # type: ignore[attr-defined]
        assert {fact.by for fact in compacted} == {"small"}  # type: ignore[attr-defined]
        assert "The memory so far:\n(nothing)\n" in played.script.to_summarise[0]
        assert "The memory so far:\nFacts:\n- the user is Mia\n" in played.script.to_summarise[1]
        assert played.script.asked[-1].messages[0].content == (
            "Earlier in this conversation:\nFacts:\n- the user is Mia Li"
        )
        called = [event.model for event in await played.events() if isinstance(event, ModelCalled)]
        assert (called.count("small"), called.count("script")) == (2, 7)

    async def test_the_log_keeps_everything_and_prompts_stay_within_their_limit(self) -> None:
        played = a_long_talk(*[remembers("the user is Mia")] * 9)
        await talking(played, 12)
        assert len(await played.happened(MessageAppended)) == 24
        assert max(await prompts(played)) <= WINDOW * 0.85

    async def test_a_summary_that_fails_is_tried_again_in_the_next_turn(self) -> None:
        played = a_long_talk(ModelError("too busy"), remembers("the user is Mia"))
        await talking(played, 3)
        assert not await played.happened(HistoryCompacted)
        assert len(await played.happened(ModelFailed)) == 1
        await talking(played, 1)
        assert len(await played.happened(HistoryCompacted)) == 1
        assert max(await prompts(played)) <= WINDOW * 0.85

    async def test_what_cannot_be_read_is_no_summary_but_was_paid(self) -> None:
        played = a_long_talk(ChatAnswer("I would rather not.", (), "stop", "small", Usage(300, 5)))
        await talking(played, 4)
        assert not await played.happened(HistoryCompacted)
        assert played_models(await played.events()).count("small") == 1

    @pytest.mark.parametrize("nonsense", ["[" * 5_000 + "]" * 5_000, '"a\ud800"', '"\\ud800"'])
    async def test_no_turn_fails_for_an_answer_that_nobody_could_read(self, nonsense: str) -> None:
        answer = ChatAnswer(f'{{"facts": [{nonsense}]}}', (), "stop", "small", Usage(300, 5))
        played = a_long_talk(*[answer] * 9)
        await talking(played, 5)
        assert played.script.to_summarise
        assert not await played.happened(TurnFailed)

    async def test_what_does_not_fit_any_more_is_summarised_before_the_prompt_is_full(self) -> None:
        played = stage(assistant(instructions=""), *[says("fine")] * 8, context_window=WINDOW)
        played.script.summaries += [remembers("the user has documents")] * 8
        for number in range(8):
            await played.say(f"document {number} " + "word " * 450)  # of which two do not fit
        facts = await played.happened(HistoryCompacted)
        assert {fact.by for fact in facts} == {"small"}  # type: ignore[attr-defined]

    async def test_a_small_model_summarises_as_much_as_it_takes_and_the_rest_later(self) -> None:
        small, large = Script([], summaries=[remembers("the user is Mia")] * 9), Script([says("word " * 10)] * 40)
        specs = {
            "large": ModelSpec("large", "script"),
            "small": ModelSpec("small", "small", context_window=300),
        }
        rule = Rule("small", node="compact_history")
        models = ModelRegistry(Policy(specs, ("large", "small"), (rule,)), {"large": large, "small": small})
        played = stage(assistant(instructions=""), context_window=WINDOW, models=models)
        for _ in range(40):
            await played.say("word " * 10)
        (first, *_) = facts = await played.happened(HistoryCompacted)
        assert {fact.by for fact in facts} == {"small"}  # type: ignore[attr-defined]
        told = small.to_summarise[0].count(": word")
        recorded = [each async for each in played.repository.follow(played.thread_id)]
        said = [each.version for each in recorded if isinstance(each.event, MessageAppended)]
        assert 5 < told < 15
        assert first.through == said[told - 1]  # type: ignore[attr-defined]
        assert max(await prompts(played)) <= WINDOW * 0.85

    async def test_without_any_summary_an_extract_keeps_the_window_bounded(self) -> None:
        played = a_long_talk()
        await talking(played, 12)
        compacted = await played.happened(HistoryCompacted)
        assert compacted
        assert {fact.by for fact in compacted} == {""}  # type: ignore[attr-defined]
        assert "user: word" in compacted[-1].summary  # type: ignore[attr-defined]
        assert len(await played.happened(MessageAppended)) == 24
        assert max(await prompts(played)) <= WINDOW * 0.85


def played_models(events: list[Event]) -> list[str]:
    return [event.model for event in events if isinstance(event, ModelCalled)]
