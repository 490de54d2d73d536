"""Questions of nodes to people and to customers: a turn waits for the answer, and goes on in any process."""

import asyncio
from collections.abc import Sequence
from typing import Literal

import pytest
from pydantic import BaseModel, field_validator

from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread
from domain.errors import ApprovalChanged, InvalidInput, ThreadBusy, UnknownApproval
from domain.ids import Version
from domain.thread.codec import Metadata
from domain.thread.commands import AnswerQuestion, AskQuestion, CancelTurn, StartTurn
from domain.thread.decider import decider
from domain.thread.events import (
    CancellationRequested,
    ItemCompleted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    QuestionAnswered,
    QuestionAsked,
    ToolRequested,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnFailed,
)
from domain.thread.state import Idle, Question, Running
from tests.support.given import A_RUNNING_TURN, OTHER_TURN, TURN, given, running
from tests.support.runtime import Stage, calls, double, one_node, says, stage
from threadfold import (
    END,
    Agent,
    Graph,
    ItemContext,
    Json,
    Node,
    NodeEvent,
    ToolContext,
    TurnContext,
    assistant,
    tool,
)

ASKED = QuestionAsked("Refund 12?", "h1")
TO_CUSTOMER = QuestionAsked("Which order?", "h2", to="customer")


class TestDeciding:
    def test_a_turn_waits_for_the_answer(self) -> None:
        state = running(*A_RUNNING_TURN, ASKED)
        assert state.waiting
        assert not running(*A_RUNNING_TURN, ASKED, QuestionAnswered(4, "yes")).waiting

    def test_a_question_is_asked_once(self) -> None:
        ask = AskQuestion(TURN, 0, "Refund 12?", 3, "person", {}, 0)
        (asked,) = decider.decide(ask, running(*A_RUNNING_TURN))
        assert isinstance(asked, QuestionAsked)
        given(*A_RUNNING_TURN, asked).when(ask).then_nothing()

    def test_an_answer_names_the_question_as_it_was_shown(self) -> None:
        history = given(*A_RUNNING_TURN, ASKED)
        history.when(AnswerQuestion(Version(4), "h1", {"ok": True})).then(QuestionAnswered(4, {"ok": True}))
        history.when(AnswerQuestion(Version(4), "other", "yes")).then_refused(ApprovalChanged)
        history.when(AnswerQuestion(Version(3), "h1", "yes")).then_refused(UnknownApproval)
        history.when(AnswerQuestion(Version(4), "h1", float("nan"))).then_refused(InvalidInput, "answer")
        given(*A_RUNNING_TURN, ASKED, QuestionAnswered(4, 1)).when(AnswerQuestion(Version(4), "h1", 2)).then_refused(
            UnknownApproval
        )

    def test_a_person_cannot_answer_for_the_customer(self) -> None:
        given(*A_RUNNING_TURN, TO_CUSTOMER).when(AnswerQuestion(Version(4), "h2", "x")).then_refused(UnknownApproval)

    @pytest.mark.parametrize("strategy", ["reject", "enqueue", "interrupt", "rollback"])
    def test_the_customers_next_message_is_the_answer(
        self, strategy: Literal["reject", "enqueue", "interrupt", "rollback"]
    ) -> None:
        start = StartTurn(OTHER_TURN, "A-17", 2, "route_intent", "f00", strategy)
        given(*A_RUNNING_TURN, TO_CUSTOMER).when(start).then(
            MessageAppended("user", "A-17", 2), QuestionAnswered(4, "A-17")
        )

    def test_a_message_is_no_answer_to_a_person_in_charge(self) -> None:
        start = StartTurn(OTHER_TURN, "A-17", 2, "route_intent", "f00")
        given(*A_RUNNING_TURN, ASKED).when(start).then_refused(ThreadBusy)

    def test_the_node_forgets_its_questions_when_it_completes(self) -> None:
        state = running(*A_RUNNING_TURN, ASKED, QuestionAnswered(4, 1), NodeCompleted("route_intent", "next", 1, 1))
        assert state.turn.questions == ()

    def test_a_cancelled_turn_ends_although_it_waits(self) -> None:
        given(*A_RUNNING_TURN, ASKED).when(CancelTurn(TURN)).then(
            CancellationRequested(TURN, "cancelled"), TurnCancelled(TURN, "cancelled")
        )

    def test_the_customer_is_not_asked_between_a_call_and_its_result(self) -> None:
        ask = AskQuestion(TURN, 0, "Which?", 3, "customer", {}, 0)
        calling = (MessageAppended("assistant", None, 1), ToolRequested("a", "clock", {}))
        given(*A_RUNNING_TURN, *calling).when(ask).then_refused(InvalidInput, "question")


class Decision(BaseModel):
    approved: bool
    note: str = ""


def open_question(loaded: LoadedThread) -> Question:
    assert isinstance(loaded.state, Running)
    assert loaded.state.waiting
    (question,) = loaded.state.turn.open_questions
    return question


async def answer(played: Stage, question: Question, value: Json) -> LoadedThread:
    """Answer as a person does, and let another worker go on."""
    command = AnswerQuestion(question.version, question.hash, value)
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (command,)))
    return await resumed(played)


async def resumed(played: Stage) -> LoadedThread:
    async with played.worker().working():
        await played.settled()
    return await played.repository.load(played.thread_id)


async def last_message(played: Stage) -> str | None:
    messages = [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
    return messages[-1]


def asking() -> Agent:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        draft = await turn.ask("Draft an answer")
        decision = await turn.ask_person(f"Send this? {draft}", Decision)
        return [turn.say(draft if decision.approved else f"No: {decision.note}")]

    return one_node(work)


async def test_a_person_answers_days_later_in_another_process() -> None:
    played = stage(asking(), says("Dear customer"))
    question = open_question(await played.say("hello"))
    assert question.text == "Send this? Dear customer"
    assert question.schema["required"] == ["approved"]
    played.clock.pass_(5 * 86_400)
    played.forget_hot()
    state = (await answer(played, question, {"approved": True})).state
    assert isinstance(state, Idle)
    assert await last_message(played) == "Dear customer"
    assert len(await played.happened(ModelCalled)) == 1, "the draft is not paid for twice"
    assert len(await played.happened(TurnCompleted)) == 1


async def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    played = stage(asking(), says("Dear customer"))
    question = open_question(await played.say("hello"))
    again = open_question(await answer(played, question, {"approved": "perhaps"}))
    assert again.text.startswith("Send this? Dear customer\n\nThe last answer does not fit: approved:")
    state = (await answer(played, again, {"approved": False, "note": "too short"})).state
    assert isinstance(state, Idle)
    assert await last_message(played) == "No: too short"


def waiter() -> Agent:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        order = await turn.ask_customer("Which order?")
        size = await turn.ask_customer(f"Which size of {order}?")
        return [turn.say(f"{turn.user_input}: {order}, {size}")]

    return one_node(work)


async def test_the_customer_answers_with_the_next_messages() -> None:
    played = stage(waiter())
    assert open_question(await played.say("exchange")).to == "customer"
    assert await last_message(played) == "Which order?"
    await played.begin("A-17")
    assert open_question(await resumed(played)).text == "Which size of A-17?"
    await played.begin("XL")
    assert isinstance((await resumed(played)).state, Idle)
    said = [(e.role, e.content) for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
    assert said == [
        ("user", "exchange"),
        ("assistant", "Which order?"),
        ("user", "A-17"),
        ("assistant", "Which size of A-17?"),
        ("user", "XL"),
        ("assistant", "exchange: A-17, XL"),
    ]
    assert len(await played.happened(TurnCompleted)) == 1


async def test_what_a_customer_is_asked_cannot_be_asked_after_generate() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.generate()
        return [turn.say(await turn.ask_customer("Why?"))]

    played = stage(one_node(work), says("hm"))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "ask before `generate` or in another node" in failed.detail


class Signed(BaseModel):
    by: str

    @field_validator("by")
    @classmethod
    def _is_signed(cls, by: str) -> str:
        if not by.startswith("#"):
            raise ValueError("sign it with #")
        return by


async def answer_all(played: Stage, loaded: LoadedThread) -> list[str]:
    """Answer each question with its first word, signed only when it is asked again; return the questions."""
    texts: list[str] = []
    while isinstance(loaded.state, Running):
        question = loaded.state.turn.open_questions[0]
        texts.append(question.text)
        first = question.text.split()[0]
        loaded = await answer(played, question, {"by": f"#{first}" if "fit" in question.text else first})
    return texts


async def test_people_who_are_asked_at_the_same_time_answer_their_own_question() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        signed = await asyncio.gather(*[turn.ask_person(f"{name} signs?", Signed) for name in ("ann", "bob")])
        return [turn.say(" ".join(each.by for each in signed))]

    played = stage(one_node(work))
    asked = await answer_all(played, await played.say("go"))
    assert await last_message(played) == "#ann #bob"
    assert len(set(asked)) == len(asked) == 4, "each is asked once, and once more because it is not signed"


async def test_attempts_may_ask_people_in_different_orders() -> None:
    async def review(turn: TurnContext, name: str) -> str:
        await sleeps.pop()
        return f"{name}: {await turn.ask_person(f'{name} signs?')}"

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(", ".join(await asyncio.gather(review(turn, "ann"), review(turn, "bob"))))]

    sleeps = [asyncio.sleep(delay) for delay in (0, 0.02, 0, 0.02, 0.02, 0)]  # the last is taken first
    played = stage(one_node(work))
    question = open_question(await played.say("go"))
    assert question.text == "ann signs?"
    question = open_question(await answer(played, question, "yes"))
    assert question.text == "bob signs?"
    assert isinstance((await answer(played, question, "no")).state, Idle)
    assert await last_message(played) == "ann: yes, bob: no"
    assert not sleeps


async def test_the_same_question_may_be_asked_twice() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(f"{await turn.ask_person('Which?')}, {await turn.ask_person('Which?')}")]

    played = stage(one_node(work))
    again = open_question(await answer(played, open_question(await played.say("go")), "left"))
    await answer(played, again, "right")
    assert await last_message(played) == "left, right"


async def test_answers_under_way_are_recorded_before_the_turn_waits() -> None:
    """Otherwise they would be paid for again when the node runs again."""

    async def each(item: ItemContext, word: Json) -> Json:
        await asyncio.sleep(0.01)
        return await item.ask(f"item {word}")

    async def two(turn: TurnContext) -> str:
        return f"{await turn.ask('first')} {await turn.ask('second')}"

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        parts = await asyncio.gather(two(turn), turn.map(["a", "b"], each), turn.ask_person("Which?"))
        return [turn.say(str(parts))]

    played = stage(one_node(work), *[says(text) for text in "wxyz"])
    question = open_question(await played.say("go"))
    assert len(await played.happened(ItemCompleted)) == 2
    await answer(played, question, "this")
    prompts = sorted(str(request.messages[-1].content) for request in played.script.asked)
    assert prompts == ["first", "item a", "item b", "second"]
    assert len(await played.happened(ModelCalled)) == 4


async def test_the_outcome_of_a_tool_is_recorded_before_the_turn_waits() -> None:
    runs: list[str] = []

    @tool
    async def pay(order: str) -> str:
        """Pay, which may happen once."""
        await asyncio.sleep(0.01)
        runs.append(order)
        return "paid"

    async def request(turn: TurnContext) -> Sequence[NodeEvent]:
        return turn.request("pay", order="A-17")

    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        _, answered = await asyncio.gather(turn.run_tools(), turn.ask_person("Which?"))
        return [turn.say(answered)]

    graph = Graph("desk", "request", [Node("request", request), Node("work", work)], {"request": "work", "work": END})
    played = stage(Agent(graph, tools=[pay]))
    question = open_question(await played.say("go"))
    assert len(await played.happened(ToolSucceeded)) == 1
    assert isinstance((await answer(played, question, "this")).state, Idle)
    assert runs == ["A-17"]


async def test_a_question_is_refused_while_the_conversation_is_continued() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        events, _ = await asyncio.gather(turn.generate(), turn.ask_person("Which?"))
        return events

    played = stage(one_node(work), says("hm"))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "ask before `generate` or in another node" in failed.detail


async def test_a_turn_that_waits_for_an_answer_can_be_cancelled() -> None:
    played = stage(asking(), says("Dear customer"))
    loaded = await played.say("hello")
    assert isinstance(loaded.state, Running)
    cancel = CancelTurn(loaded.state.turn.turn_id)  # type: ignore[arg-type]
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (cancel,), Metadata()))
    assert len(await played.happened(TurnCancelled)) == 1


SENT: list[str] = []


class Size(BaseModel):
    size: Literal["S", "M", "L"]


@tool
async def exchange(order: str, context: ToolContext) -> str:
    """Exchange an order."""
    size = context.ask(f"Which size for {order}?", Size).size
    allowed = context.ask("Is that allowed?", bool)
    if allowed:
        SENT.append(f"{order} {size} {context.idempotency_key}")
    return f"{order} in {size}" if allowed else "not allowed"


async def test_a_tool_asks_a_person_and_runs_again_with_the_answers() -> None:
    SENT.clear()
    played = stage(assistant(tools=[exchange]), calls(("exchange", {"order": "A-17"})), says("done"))
    first = open_question(await played.say("exchange it"))
    assert (first.text, first.call) == ("Which size for A-17?", Version(8))
    assert first.schema["required"] == ["size"]
    again = open_question(await answer(played, first, {"size": "XXL"}))
    assert again.text.startswith("Which size for A-17?\n\nThe last answer does not fit: size:")
    second = open_question(await answer(played, again, {"size": "L"}))
    assert second.text == "Is that allowed?"
    assert SENT == []
    state = (await answer(played, second, value=True)).state
    assert isinstance(state, Idle)
    assert [f"A-17 L {played.thread_id}:8"] == SENT
    results = [event.content for event in await played.happened(ToolSucceeded) if isinstance(event, ToolSucceeded)]
    assert results == ["A-17 in L"]


async def test_other_calls_go_on_while_one_waits_for_an_answer() -> None:
    SENT.clear()
    asked = calls(("double", {"number": 2}), ("exchange", {"order": "A-17"}))
    played = stage(assistant(tools=[double, exchange]), asked, says("done"))
    first = open_question(await played.say("both"))
    assert len(await played.happened(ToolSucceeded)) == 1
    second = open_question(await answer(played, first, {"size": "S"}))
    assert isinstance((await answer(played, second, value=False)).state, Idle)
    assert SENT == []


async def test_a_function_of_a_list_cannot_ask_a_person() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        async def each(_: ItemContext, __: Json) -> Json:
            return await turn.ask_person("May I?")

        return [turn.say(str(await turn.map([1], each)))]

    played = stage(one_node(work, timeout=20))
    await played.say("go")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "a function of turn.map cannot wait for a person" in failed.detail
    assert not await played.happened(QuestionAsked)
