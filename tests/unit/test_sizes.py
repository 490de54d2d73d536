"""What may be written is bounded; each error names the field and its limit."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from domain.agents.agent import TurnContext
from domain.agents.graph import RetryPolicy
from domain.application.turns.token_counting import MAX_INLINE_CHARS, estimate_tokens
from domain.errors import InvalidInput, ThreadBusy
from domain.ids import TurnId, Version
from domain.json import Json
from domain.thread.commands import (
    CompleteItem,
    CompleteNode,
    EditMessage,
    EndCall,
    StartCalls,
    StartFanOut,
    StartTurn,
    StopTurn,
)
from domain.thread.decide import decide
from domain.thread.events import (
    FanOutStarted,
    MessageAppended,
    NodeEvent,
    StateUpdated,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnEnqueued,
    TurnFailed,
)
from domain.thread.size_limits import (
    MAX_ARGUMENTS_CHARACTERS,
    MAX_FAN_OUT_CHARACTERS,
    MAX_NODE_MESSAGE_CHARACTERS,
    MAX_QUEUED_BYTES,
    MAX_RESULT_CHARACTERS,
    MAX_TEXT_BYTES,
    bytes_of,
    cut_to_fit,
)
from tests.support.given import A_RUNNING_TURN, OTHER_TURN, TURN, given, running
from tests.support.runtime import one_node, stage

LONG_TEXT = "x" * (MAX_TEXT_BYTES + 1)
WIDE = "漢" * (MAX_TEXT_BYTES // 3 + 1)
ANSWER = MessageAppended("assistant", "hi", 1)
A_CALL = (*A_RUNNING_TURN, ANSWER, ToolRequested("a", "clock", {}))
CALL = Version(len(A_CALL))


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ([MessageAppended("assistant", LONG_TEXT, 1)], r"facts.0.content: may take 1,000,000 bytes, not 1,000,001"),
        ([MessageAppended("assistant", WIDE, 1)], r"facts.0.content: may take 1,000,000 bytes, not 1,000,002"),
        (
            [ANSWER, ToolRequested("a", "clock", {"a": "x" * MAX_ARGUMENTS_CHARACTERS})],
            r"facts.1.arguments: may take 262,144 char",
        ),
        ([StateUpdated({"a": "x" * MAX_ARGUMENTS_CHARACTERS})], r"facts.0.changes: .*262,144 characters"),
        (
            [MessageAppended("assistant", "x" * MAX_TEXT_BYTES, 1)] * 3,
            r"facts: a node may record at most 2,000,000 bytes",
        ),
    ],
)
def test_a_node_s_facts_are_bounded(facts: Sequence[NodeEvent], complaint: str) -> None:
    given(*A_RUNNING_TURN).when(CompleteNode(TURN, 0, tuple(facts), "next", 5)).then_refused(InvalidInput, complaint)


def test_facts_that_just_fit_are_recorded() -> None:
    facts = (MessageAppended("assistant", "x" * MAX_TEXT_BYTES, 1),) * 2

    assert decide(CompleteNode(TURN, 0, facts, "next", 5), running(*A_RUNNING_TURN))[:2] == facts


def test_the_items_of_a_list_are_bounded_together() -> None:
    items: tuple[Json, ...] = ("x" * (MAX_FAN_OUT_CHARACTERS // 10),) * 10
    given(*A_RUNNING_TURN).when(StartFanOut(TURN, 0, items)).then_refused(InvalidInput, "items: may take 1,000,000")
    assert len(decide(StartFanOut(TURN, 0, items[:9]), running(*A_RUNNING_TURN))) == 1


@pytest.mark.parametrize(("count", "most"), [(1, MAX_RESULT_CHARACTERS), (256, MAX_RESULT_CHARACTERS), (1_000, 4_194)])
def test_the_results_of_a_list_are_bounded_together(count: int, most: int) -> None:
    def result(size: int) -> CompleteItem:
        return CompleteItem(TURN, 0, 0, "x" * (size - 2), (), 5)

    before = given(*A_RUNNING_TURN, FanOutStarted([1] * count))
    before.when(result(most + 1)).then_refused(InvalidInput, f"result: may take {most:,} characters")
    assert len(decide(result(most), before.state)) == 1


def test_the_queue_is_bounded_in_bytes() -> None:
    def enqueue(content: str) -> StartTurn:
        return StartTurn(OTHER_TURN, content, 1, "route_intent", "f00", "enqueue")

    waiting = [
        TurnEnqueued(TurnId(UUID(int=100 + n)), "漢" * (MAX_QUEUED_BYTES // 12), 1, "route_intent", "f00")
        for n in range(4)
    ]
    before = given(*A_RUNNING_TURN, *waiting[:3])
    assert len(decide(enqueue("漢" * (MAX_QUEUED_BYTES // 12)), before.state)) == 1
    full = given(*A_RUNNING_TURN, *waiting)
    full.when(enqueue("x" * 100)).then_refused(ThreadBusy, "take 999,996 bytes; with this one, .* than 1,000,000")


def test_a_message_is_bounded_wherever_it_comes_from() -> None:
    edit = EditMessage(Version(3), LONG_TEXT, 1)
    given(*A_RUNNING_TURN).when(edit).then_refused(InvalidInput, "content: may take 1,000,000 bytes")
    start = StartTurn(OTHER_TURN, LONG_TEXT, 1, "route_intent", "f00", "enqueue")
    given(*A_RUNNING_TURN).when(start).then_refused(InvalidInput, "user_input: may take 1,000,000 bytes")


def test_what_cannot_be_asked_for_again_is_cut() -> None:
    started = decide(StartCalls(TURN, ((CALL, 1),)), running(*A_CALL))
    assert isinstance(started[0], ToolStarted)
    (ended,) = decide(EndCall(TURN, CALL, "succeeded", WIDE * 2, 1), running(*A_CALL, *started))
    assert isinstance(ended, ToolSucceeded)
    assert ended.content.endswith("[cut: this was too long to be stored]")
    stopping = StopTurn(TURN, WIDE * 2, 1)
    said = [event for event in decide(stopping, running(*A_RUNNING_TURN)) if isinstance(event, MessageAppended)]
    for text in (ended.content, *(event.content or "" for event in said)):
        assert bytes_of(text) <= MAX_TEXT_BYTES


@pytest.mark.parametrize("text", ["", "short", "x" * MAX_TEXT_BYTES, "🙂" * (MAX_TEXT_BYTES // 4)])
def test_what_fits_is_not_cut(text: str) -> None:
    assert cut_to_fit(text, "mark") is text


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT_BYTES + 1), "漢" * MAX_TEXT_BYTES, "a" + "🙂" * MAX_TEXT_BYTES])
def test_what_is_cut_is_cut_between_characters(text: str) -> None:
    kept = cut_to_fit(text, "[cut]")
    assert MAX_TEXT_BYTES - 4 < bytes_of(kept) <= MAX_TEXT_BYTES
    assert text.startswith(kept.removesuffix("[cut]"))


async def test_a_node_that_says_too_much_fails_before_anything_is_counted() -> None:
    async def tell(turn: TurnContext) -> Sequence[NodeEvent]:
        return (turn.say("x" * 40_000_000),)

    played = stage(one_node(tell, retry=RetryPolicy(attempts=1)))
    await played.say("go on")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert f"say: may have {MAX_NODE_MESSAGE_CHARACTERS:,} characters, not 40,000,000" in failed.detail


async def test_arguments_that_are_too_long_fail_before_anything_is_counted() -> None:
    async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
        return turn.request("clock", zone="x" * 1_000_000)

    played = stage(one_node(ask, retry=RetryPolicy(attempts=1)))
    await played.say("go on")
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "request.arguments: may take 262,144 characters as JSON" in failed.detail


class Counter:
    """Counts words, and keeps how long the longest text was."""

    def __init__(self) -> None:
        self.longest = 0

    def count(self, text: str) -> int:
        self.longest = max(self.longest, len(text))
        return len(text.split())


def test_a_long_text_is_estimated_by_its_beginning() -> None:
    counter = Counter()
    assert estimate_tokens(counter, "word " * 1_000_000) == pytest.approx(1_000_000, rel=0.01)
    assert counter.longest == MAX_INLINE_CHARS
    assert estimate_tokens(counter, "three short words") == 3
