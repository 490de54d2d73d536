"""That the checks of `inquiry` find each fault, and make none up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from domain.ids import Position, ThreadId, Version
from domain.json import Json
from domain.thread.codec import Metadata, Recorded
from domain.thread.events import (
    Event,
    FanOutStarted,
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    MessageAppended,
    ModelAnswered,
    NodeCompleted,
    NodeFailed,
    QuestionAnswered,
    QuestionAsked,
    StateUpdated,
    ToolSucceeded,
    TurnResumed,
    TurnStarted,
)
from tests.chaos.asked_model import Paid
from tests.chaos.effects import Effect
from tests.chaos.inquiry import BROKEN, answer_of, mark
from tests.chaos.inquiry_checks import Faults, check

START = datetime(2026, 1, 1, tzinfo=UTC)

WORD, FLAKY, ITEM = "word 1/first", "flaky 1/first", "word 1/first/0/0"
PERSON, CUSTOMER = "person 1/first why?", "customer 1/first order?"
THREAD, TURN = ThreadId(UUID(int=1)), UUID(int=2)


@dataclass
class Story:
    """A run without a fault. Its tests change a part of it. Each event is a second after the one before."""

    events: list[Event] = field(
        default_factory=lambda: [
            TurnStarted(TURN, "first", "g"),  # version 1, at 0 s
            answered(WORD),
            MessageAppended("assistant", CUSTOMER, 1),
            QuestionAsked(CUSTOMER, "h", to="customer"),
            QuestionAnswered(4, mark(CUSTOMER)),  # version 5, at 4 s
            TurnResumed("w", "g"),
            QuestionAsked(PERSON, "h", number=1),
            QuestionAnswered(7, mark(PERSON)),
            FanOutStarted(["x"]),
            answered(ITEM, item=0),  # version 10, at 9 s
            ItemCompleted(0, {}, 1),
            ToolSucceeded(1, "booked 1", 1, 1),
            StateUpdated({"heard": {WORD: answer_of(WORD), PERSON: mark(PERSON)}}),
            NodeCompleted("first", "answer", 1, 1),
            MessageAppended("assistant", mark("Turn 1 please"), 1),  # version 15, at 14 s
        ]
    )
    paid: list[Paid] = field(
        default_factory=lambda: [Paid(WORD, at(0.5)), Paid(ITEM, at(8.5)), Paid("Turn 1 please", at(13.5))]
    )
    effects: list[Effect] = field(
        default_factory=lambda: [
            Effect("item 1/first/0/0", "key", 1, at(9.5)),
            Effect("book", "call", 1, at(10.5)),
            Effect("note", "other", 1, at(10.5)),
            Effect("note", "other", 1, at(10.6)),
        ]
    )
    given: dict[int, Json] = field(default_factory=lambda: {4: mark(CUSTOMER), 7: mark(PERSON)})
    deaths: list[float] = field(default_factory=list)

    def faults(self) -> Faults:
        return check(recorded(self.events), self.paid, self.effects, self.given, self.deaths)


def answered(prompt: str, number: int = 0, item: int | None = None) -> ModelAnswered:
    return ModelAnswered(number, str(answer_of(prompt)), "digest", prompt, item=item)


def at(seconds: float) -> float:
    return START.timestamp() + seconds


def recorded(events: Sequence[Event]) -> list[Recorded]:
    return [
        Recorded(THREAD, Version(n + 1), Position(n + 1), START + timedelta(seconds=n), event, Metadata())
        for n, event in enumerate(events)
    ]


def only(faults: Faults, kind: str) -> Sequence[str]:
    """Return the faults of a kind; there must be no other ones."""
    found: Sequence[str] = getattr(faults, kind)
    assert faults.all == found
    return found


def test_a_run_without_a_fault_has_none() -> None:
    assert Story().faults().all == []


@pytest.mark.parametrize("prompt", [WORD, ITEM, "Turn 1 please"])
def test_an_answer_is_paid_for_twice_if_the_log_had_it(prompt: str) -> None:
    story = Story(deaths=[at(14.4)])
    story.paid.append(Paid(prompt, at(14.5)))
    (fault,) = only(story.faults(), "paid_twice")
    assert repr(prompt) in fault


def test_an_answer_that_died_with_its_worker_is_paid_for_again() -> None:
    story = Story(deaths=[at(0.3)])
    story.paid.insert(0, Paid(WORD, at(0.2)))
    assert story.faults().all == []


def test_an_answer_is_paid_for_twice_if_no_worker_died() -> None:
    story = Story(deaths=[at(0.7)])
    story.paid.insert(0, Paid(WORD, at(0.2)))
    assert "nothing had failed" in only(story.faults(), "paid_twice")[0]


def test_that_a_person_has_answered_is_no_reason_to_pay_again() -> None:
    story = Story(paid=[Paid(WORD, at(0.2)), Paid(WORD, at(5.5))])
    story.events[1] = MessageAppended("assistant", "Hello", 1)  # and no answer
    assert "nothing had failed" in only(story.faults(), "paid_twice")[0]


@pytest.mark.parametrize(
    ("failed", "prompt"),
    [(NodeFailed("first", 1, "e", 1, 5), FLAKY), (ItemFailed(0, 1, "e", 5), "flaky 1/first/0/0")],
)
def test_an_attempt_that_failed_asks_again_and_then_not(failed: Event, prompt: str) -> None:
    item = 0 if isinstance(failed, ItemFailed) else None
    story = Story()
    story.events += [answered(prompt, 1, item), failed, answered(prompt, 1, item)]  # at 15, 16 and 17 s
    story.paid += [Paid(prompt, at(14.5)), Paid(prompt, at(16.5))]
    assert story.faults().all == []
    story.paid.append(Paid(prompt, at(17.5)))
    assert len(only(story.faults(), "paid_twice")) == 2, "the log had it, and nothing had failed"


def test_the_record_of_an_attempt_that_failed_may_be_lost_with_its_worker() -> None:
    story = Story(deaths=[at(16)])
    story.paid += [Paid(prompt, at(time)) for time in (14.1, 14.5) for prompt in ("word 1/second", "flaky 1/second")]
    assert story.faults().all == [], "the model's first answer to a flaky prompt is broken"
    story.paid += [Paid(prompt, at(14.6)) for prompt in ("word 1/second", "flaky 1/second")]
    assert len(only(story.faults(), "paid_twice")) == 2


def test_what_an_item_asked_at_a_node_that_is_complete_is_known_for_ever() -> None:
    story = Story()
    story.events += [answered(FLAKY, 1, 0), ItemAdvanced(0, "a", "b", {}, 1), ItemFailed(0, 1, "e", 5)]
    story.paid += [Paid(FLAKY, at(14.5)), Paid(FLAKY, at(17.5))]  # the failure at 17 s was of the next node
    assert "after its answer was recorded" in only(story.faults(), "paid_twice")[0]


def test_a_node_of_an_item_that_is_complete_does_not_run_again() -> None:
    story, step = Story(), "step 1/first/0/0/a"
    story.events.insert(9, ItemAdvanced(0, "a", "b", {}, 1))  # at 9 s
    story.effects += [Effect(step, "k:0", 1, at(8.5)), Effect(step, "k:0", 2, at(9.5))]
    assert only(story.faults(), "doubled") == [f"{step} ran again after it was complete"]
    story.events.insert(9, ItemAdvanced(0, "a", "b", {}, 1))
    assert f"{step} is complete twice" in story.faults().doubled


def test_the_failure_of_another_item_is_no_reason_to_ask_again() -> None:
    story = Story()
    story.events += [answered(ITEM, 1, 0), ItemFailed(1, 1, "e", 5)]
    story.paid = [Paid(ITEM, at(14.5)), Paid(ITEM, at(16.5))]
    assert "after its answer was recorded" in story.faults().paid_twice[0]


def test_an_answer_is_recorded_once() -> None:
    story = Story()
    story.events += [answered(FLAKY), answered(FLAKY)]
    assert only(story.faults(), "paid_twice") == [f"the answer to {FLAKY!r} is in the log twice"]


@pytest.mark.parametrize(
    "effect",
    [
        Effect("book", "call", 2, at(11)),
        Effect("item 1/first/0/0", "key", 2, at(10.5)),
        Effect("item 1/first/0/0", "another key", 2, at(9.6)),
        Effect("item 1/first/0/1", "key", 1, at(9.6)),
    ],
    ids=["a call again", "a complete item again", "another key", "the key of another item"],
)
def test_an_effect_happens_once(effect: Effect) -> None:
    story = Story()
    story.effects.append(effect)
    assert len(only(story.faults(), "doubled")) == 1


def test_an_item_that_is_not_complete_may_have_its_effect_again_with_its_key() -> None:
    story = Story()
    story.effects.append(Effect("item 1/first/0/0", "key", 2, at(9.9)))
    assert story.faults().all == []


def test_an_item_is_complete_once() -> None:
    story = Story()
    story.events.insert(11, ItemCompleted(0, {}, 1))
    assert only(story.faults(), "doubled") == ["item 1/first/0/0 is complete twice"]


def test_a_question_is_asked_once() -> None:
    story = Story()
    story.events += [QuestionAsked(PERSON, "h", number=2), QuestionAnswered(16, mark(PERSON))]
    story.given[16] = mark(PERSON)
    assert only(story.faults(), "asked_twice") == [f"{PERSON!r} was asked 2 times"]


def test_the_customer_reads_a_question_once() -> None:
    story = Story()
    story.events.append(MessageAppended("assistant", CUSTOMER, 1))
    assert only(story.faults(), "asked_twice") == [f"the customer was asked {CUSTOMER!r} 2 times"]


@pytest.mark.parametrize(
    ("more", "given"),
    [
        ([], {4: mark(CUSTOMER), 7: mark(PERSON), 16: "lost"}),
        ([QuestionAsked("person 1/x?", "h", number=2)], {4: mark(CUSTOMER), 7: mark(PERSON)}),
        ([QuestionAnswered(7, mark(PERSON))], {4: mark(CUSTOMER), 7: mark(PERSON)}),
        ([], {4: mark(CUSTOMER), 7: "something else"}),
        ([StateUpdated({"heard": {WORD: mark("word 1/second")}})], {4: mark(CUSTOMER), 7: mark(PERSON)}),
        ([StateUpdated({"heard": {FLAKY: BROKEN}})], {4: mark(CUSTOMER), 7: mark(PERSON)}),
        ([StateUpdated({"heard": {"word 2/first": mark("word 2/first")}})], {4: mark(CUSTOMER), 7: mark(PERSON)}),
        ([ToolSucceeded(2, "booked 2", 1, 1)], {4: mark(CUSTOMER), 7: mark(PERSON)}),
    ],
    ids=[
        "an answer that the log lacks",
        "a question without an answer",
        "a question with two answers",
        "another answer than the given one",
        "the answer to another prompt",
        "the answer of an attempt that failed",
        "the answer of another turn",
        "an outcome without its effect",
    ],
)
def test_an_answer_that_is_lost_or_changed_is_found(more: Sequence[Event], given: Mapping[int, Json]) -> None:
    story = Story(given=dict(given))
    story.events += more
    assert len(only(story.faults(), "lost")) == 1
