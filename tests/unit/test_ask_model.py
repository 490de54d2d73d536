"""Questions of nodes and items to models: typed, validated, recorded, and not paid for twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field

from domain.agents.output import Output, output_of
from domain.application.command_handler import CommandRequest, execute
from domain.models.chat import AnswerInvalid, ModelUnreachable
from domain.ports.wakeups import Delta, Withdrawn
from domain.thread.codec import Metadata, Recorded
from domain.thread.commands import AnswerQuestion
from domain.thread.events import MessageAppended, ModelAnswered, ModelCalled, NodeFailed, TurnCompleted, TurnFailed
from domain.thread.state import Running
from tests.support.runtime import Stage, calls, double, one_node, says, stage
from threadfold import Agent, Graph, ItemContext, Json, Node, NodeEvent, RetryPolicy, TurnContext

Intent = Literal["refund", "question"]


class Refund(BaseModel):
    order: str
    amount: int = Field(ge=1)


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Pair:
    left: str
    right: str


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class TestOutput:
    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            (str, "anything {", "anything {"),
            (Intent, '{"answer": "refund"}', "refund"),
            (Intent, '"refund"', "refund"),
            (Intent, "refund.", "refund"),
            (Intent, '```json\n{"answer":"question"}\n```', "question"),
            (bool, '{"answer": true}', True),
            (int, "42", 42),
            (list[int], '{"answer": [1, 2]}', [1, 2]),
            (Mood, "good", Mood.GOOD),
            (Refund, 'Here it is: {"order": "A-17", "amount": 3} Anything else?', Refund(order="A-17", amount=3)),
            (Point, '{"x": 1}', Point(1, 0)),
            (Pair, '{"left":"a","right":"b"}', Pair("a", "b")),
        ],
    )
    def test_answers_are_converted(self, kind: Any, text: str, value: object) -> None:
        assert output_of(kind).parse(text) == value

    @pytest.mark.parametrize(
        ("kind", "text", "why"),
        [
            (Intent, "perhaps", "refund"),
            (Refund, '{"order": "A-17", "amount": 0}', "amount: Input should be greater than or equal to 1"),
            (Refund, "no idea", "it is not JSON"),
            (Refund, "", "it is not JSON"),
            (Point, '{"x": "1"}', r"Expected `int`, got `str` - at `\$.x`"),
            (int, '{"answer": 1, "more": 2}', "valid integer"),
        ],
    )
    def test_an_answer_that_does_not_fit_is_quoted(self, kind: Any, text: str, why: str) -> None:
        with pytest.raises(AnswerInvalid, match=why) as caught:
            output_of(kind).parse(text)
        assert f"The model wrote: {text}" in str(caught.value)

    def test_models_are_asked_for_an_object_in_any_case(self) -> None:
        wanted = output_of(Intent).format
        assert wanted is not None
        assert wanted.schema["properties"] == {"answer": {"enum": ["refund", "question"], "type": "string"}}
        assert wanted.schema["required"] == ["answer"]
        assert output_of(str).format is None
        nested: Output[Any] = output_of(list[Refund])
        assert nested.format is not None
        assert set(nested.format.schema["$defs"]) == {"Refund"}

    def test_a_type_that_cannot_be_described_is_refused(self) -> None:
        with pytest.raises(TypeError, match="no type that can be described to a model"):
            output_of(object())


def classifying(*, retry: RetryPolicy | None = None, output: Any = Intent) -> Agent:
    async def classify(turn: TurnContext) -> Sequence[NodeEvent]:
        intent = await turn.ask(f"What does this ask for? {turn.user_input}", "You classify.", output=output)
        return [turn.say(str(intent))]

    return one_node(classify, retry=retry)


async def said(played: Stage) -> list[str | None]:
    return [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]


async def test_an_answer_is_validated_and_recorded() -> None:
    played = stage(classifying(), says('{"answer": "refund"}'))
    await played.say("money back")
    assert await said(played) == ["money back", "refund"]
    (answered,) = await played.happened(ModelAnswered)
    assert isinstance(answered, ModelAnswered)
    assert (answered.prompt, answered.instructions) == ("What does this ask for? money back", "You classify.")
    assert answered.content == '{"answer": "refund"}'
    (request,) = played.script.asked
    assert request.output is not None
    assert "fits this JSON schema" in (request.messages[0].content or "")


async def test_an_answer_that_does_not_fit_is_corrected_once() -> None:
    played = stage(classifying(), says("maybe"), says("question"))
    await played.say("hm")
    assert await said(played) == ["hm", "question"]
    first, second = played.script.asked
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[:2] == first.messages
    assert "Input should be 'refund' or 'question'" in (second.messages[3].content or "")
    assert len(await played.happened(ModelCalled)) == 2


async def test_a_second_wrong_answer_fails_with_what_the_model_wrote() -> None:
    played = stage(classifying(), says("maybe"), says("who knows"))
    await played.say("hm")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "The answer does not fit" in failed.detail
    assert "The model wrote: who knows" in failed.detail
    assert len(await played.happened(ModelCalled)) == 2


async def test_a_failed_attempt_asks_again_but_a_crashed_one_does_not() -> None:
    attempts = 0

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        nonlocal attempts
        attempts += 1
        answer = await turn.ask("one")
        if attempts == 1:
            raise ValueError("not this one")
        return [turn.say(answer)]

    played = stage(one_node(work, retry=RetryPolicy(attempts=2, first_delay=0)), says("bad"), says("good"))
    await played.say("go")
    assert await said(played) == ["go", "good"]
    assert len(await played.happened(NodeFailed)) == 1


async def test_after_a_crash_known_answers_are_not_paid_for_again() -> None:
    gate = asyncio.Event()

    async def each(item: ItemContext, word: Json) -> Json:
        first = await item.ask(f"first {word}")
        if word == "b":
            await gate.wait()
        return [first, await item.ask(f"second {word}")]

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        intent = await turn.ask("intent", output=Intent)
        results = await turn.map(["a", "b"], each, at_once=1)
        return [turn.say(f"{intent} {results} {await turn.ask('last')}")]

    lines = [says(text) for text in ("refund", "a1", "a2", "b1", "b2", "end")]
    played = stage(one_node(work), *lines)
    started = await played.begin("go")
    played.turns.start(started.loaded, Metadata())
    while len(await played.happened(ModelAnswered)) < 4:
        await asyncio.sleep(0)
    await played.turns.abandon(played.thread_id)
    gate.set()
    async with played.worker().working():
        await played.settled()
    assert (await said(played))[-1] == "refund [['a1', 'a2'], ['b1', 'b2']] end"
    assert [request.messages[-1].content for request in played.script.asked] == [
        *("intent", "first a", "second a", "first b", "second b", "last")
    ]
    assert len(await played.happened(ModelCalled)) == 6


async def test_questions_at_the_same_time_keep_their_answers() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        answers = await asyncio.gather(*(turn.ask(f"number {n}") for n in range(5)))
        return [turn.say(" ".join(answers))]

    played = stage(one_node(work), *(says(str(n)) for n in range(5)))
    await played.say("go")
    assert (await said(played))[-1] == "0 1 2 3 4"
    assert [e.number for e in await played.happened(ModelAnswered) if isinstance(e, ModelAnswered)] == [0, 1, 2, 3, 4]


async def test_attempts_may_ask_in_different_orders() -> None:
    """Several questions one after the other, of several at a time: the order depends on how fast models answer."""

    async def two(turn: TurnContext, name: str) -> list[str]:
        first = await turn.ask(f"{name} first")
        await sleeps.pop()
        return [first, await turn.ask(f"{name} second")]

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        parts = await asyncio.gather(two(turn, "ann"), two(turn, "bob"))
        decision = await turn.ask_person("Which?")
        return [turn.say(f"{parts} {decision}")]

    sleeps = [asyncio.sleep(delay) for delay in (0.02, 0, 0, 0.02)]  # the last is taken first
    played = stage(one_node(work), *[says(text) for text in ("a1", "b1", "b2", "a2")])
    loaded = await played.say("go")
    assert isinstance(loaded.state, Running)
    (question,) = loaded.state.turn.open_questions
    deciding = AnswerQuestion(question.version, question.hash, "this")
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (deciding,), Metadata()))
    async with played.worker().working():
        await played.settled()
    assert (await said(played))[-1] == "[['a1', 'a2'], ['b1', 'b2']] this"
    assert len(await played.happened(ModelCalled)) == 4
    assert not sleeps


async def test_the_same_question_may_be_asked_several_times() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        dice = [await turn.ask("Roll the dice") for _ in range(3)]
        return [turn.say(f"{dice} {await turn.ask_customer('Enough?')}")]

    played = stage(one_node(work), *[says(text) for text in "123"])
    await played.say("go")
    await played.begin("yes")
    async with played.worker().working():
        await played.settled()
    assert (await said(played))[-1] == "['1', '2', '3'] yes"


async def test_a_model_that_does_not_answer_fails_the_node() -> None:
    played = stage(classifying(), ModelUnreachable("away"))
    await played.say("hm")
    assert len(await played.happened(TurnFailed)) == 1
    assert not await played.happened(ModelAnswered)


class TestStreaming:
    async def heard(self, agent: Agent, *lines: Any) -> list[object]:
        """Return the deltas and withdrawals of a turn, with the events in between by their names."""
        played = stage(agent, *lines)
        outcome = await played.begin("hi")
        with played.turns.services.broadcast.watch(played.thread_id) as watcher:
            await played.turns.run(outcome.loaded, Metadata())
            heard: list[object] = []
            while TurnCompleted.__name__ not in heard and TurnFailed.__name__ not in heard:
                signal = await watcher.hear()
                heard.append(type(signal.event).__name__ if isinstance(signal, Recorded) else signal)
        return [
            one.text if isinstance(one, Delta) else one for one in heard if isinstance(one, Delta | Withdrawn | str)
        ]

    async def test_what_a_node_asks_is_not_streamed(self) -> None:
        heard = await self.heard(classifying(), says("refund"))
        assert heard[:2] == ["ModelCalled", "ModelAnswered"]

    async def test_it_is_if_the_node_wants_that_and_is_withdrawn(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(await turn.ask("joke", show=True))]

        heard = await self.heard(one_node(work), says("a joke"))
        assert heard[0] == "a joke"
        assert sum(isinstance(one, Withdrawn) for one in heard) == 1
        assert heard[-2:] == ["NodeCompleted", "TurnCompleted"]

    async def test_an_inner_generate_is_withdrawn(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.generate("Classify.")
            return [turn.say("Hello.")]

        heard = await self.heard(one_node(work), says("greeting"))
        assert heard[0] == "greeting"
        assert isinstance(heard[1], Withdrawn)
        assert heard[2] == "ModelCalled"

    async def test_an_inner_generate_can_be_kept_from_clients(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.generate("Classify.", show=False)
            return await turn.generate()

        heard = await self.heard(one_node(work), says("greeting"), says("Hello."))
        assert heard[0] == "Hello."
        assert not any(isinstance(one, Withdrawn) for one in heard)

    async def test_what_the_first_of_two_has_written_is_withdrawn_before_the_second_writes(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.generate("Classify.")
            return await turn.generate()

        heard = await self.heard(one_node(work), says("greeting"), says("Hello."))
        assert heard[0] == "greeting"
        assert isinstance(heard[1], Withdrawn)
        assert heard[2] == "Hello."
        assert sum(isinstance(one, Withdrawn) for one in heard) == 1

    async def test_a_message_that_the_node_records_is_not_withdrawn(self) -> None:
        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return await turn.generate()

        heard = await self.heard(one_node(work), says("Hello."))
        assert heard[0] == "Hello."
        assert not any(isinstance(one, Withdrawn) for one in heard)


class TestFinalAnswers:
    def agent(self) -> Agent:
        async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
            return await turn.generate()

        async def run(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.run_tools()
            return await turn.generate()

        nodes = [Node("answer", answer), Node("run", run)]
        return Agent(Graph("typed", "answer", nodes, {"answer": "run", "run": "END"}), tools=[double], output=Refund)

    async def test_an_agents_answer_is_validated_after_its_tools_have_run(self) -> None:
        right = '{"order":"A-17","amount":4}'
        played = stage(self.agent(), calls(("double", {"number": 2})), says('{"order": "A-17"}'), says(right))
        await played.say("refund it")
        assert (await said(played))[-1] == right
        assert [request.output.name for request in played.script.asked if request.output] == ["Refund"] * 3
        (first,) = await played.happened(ModelAnswered)
        assert isinstance(first, ModelAnswered)
        assert first.content == '{"order": "A-17"}'

    async def test_what_the_model_wrote_around_the_json_is_not_in_the_message(self) -> None:
        played = stage(self.agent(), says('Here it is:\n```json\n{"order": "A-17", "amount": 4}\n```\nFine?'))
        await played.say("refund it")
        assert (await said(played))[1] == '{"order":"A-17","amount":4}'

    async def test_a_second_wrong_answer_fails_the_turn(self) -> None:
        played = stage(self.agent(), calls(("double", {"number": 2})), says("no"), says("never"))
        await played.say("refund it")
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert "The model wrote: never" in failed.detail


async def test_a_call_may_offer_some_of_the_tools() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.generate(tools=[], show=False)
        await turn.generate(tools=["double"], show=False)
        return [turn.say("done")]

    agent = one_node(work, tools=[double])
    played = stage(agent, says("one"), says("two"))
    await played.say("go")
    assert [[spec.name for spec in request.tools] for request in played.script.asked] == [[], ["double"]]


async def test_a_tool_that_the_agent_does_not_have_cannot_be_offered() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return await turn.generate(tools=["triple"])

    played = stage(one_node(work, tools=[double]))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "the agent has no tool 'triple', which could run its calls; it has: double" in failed.detail


async def test_instructions_may_depend_on_the_state() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return await turn.generate()

    agent = Agent(
        Graph("solo", "only", [Node("only", work)], {"only": "END"}),
        lambda state: f"This is turn {state.thread.turns}.",
    )
    played = stage(agent, says("one"), says("two"))
    await played.say("a")
    await played.say("b")
    assert [r.messages[0].content for r in played.script.asked] == ["This is turn 1.", "This is turn 2."]
