"""Every event has a sentence that says what happened."""

from uuid import UUID

import pytest

from domain.models.chat import ToolCall
from domain.money import PER_DOLLAR
from domain.thread.describe import MAX_QUOTED_LENGTH, describe, refers_to
from domain.thread.events import (
    EVENTS,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    BudgetSet,
    BudgetThresholdReached,
    CancellationRequested,
    ContextAssembled,
    Event,
    FanOutStarted,
    HistoryCompacted,
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    Limit,
    MessageAppended,
    MessageEdited,
    ModelAnswered,
    ModelCalled,
    ModelFailed,
    NodeCompleted,
    NodeFailed,
    QuestionAnswered,
    QuestionAsked,
    StateUpdated,
    ThreadForked,
    ThreadOpened,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnFailed,
    TurnResumed,
    TurnRolledBack,
    TurnStarted,
)
from domain.windows import EVER

TURN = UUID("3f2a91c4-0000-4000-8000-000000000001")
OTHER = UUID("b7000000-0000-4000-8000-000000000002")
STATUS = ToolRequested("call_1", "order_status", {"order": "A-17"})
REFUND = ToolRequested("call_2", "refund", {"order": "A-17", "amount": 5})
SIGN = ApprovalRequested("hash", node="sign")

SENTENCES: list[tuple[Event, Event | None, str]] = [
    (ThreadOpened("support"), None, "The thread was opened with the graph support and no values"),
    (
        ThreadOpened("support", {"plan": "gold"}),
        None,
        'The thread was opened with the graph support and the values {"plan":"gold"}',
    ),
    (ThreadForked(OTHER, 18), None, f"The thread left the thread {OTHER} after its version 18"),
    (
        MessageEdited(3, "Where is B-4?", 4),
        MessageAppended("user", "Where is A-17?", 4),
        'The user\'s message of version 3 reads "Where is B-4?" from now on',
    ),
    (
        MessageEdited(9, "lost", 1),
        ToolSucceeded(8, "shipped", 1, 2),
        'A tool\'s answer of version 9 reads "lost" from now on',
    ),
    (
        BudgetSet((Limit("day", 5_000, 1_500_000_000_000), Limit("lifetime", cost=1_250_000_000_000_000))),
        None,
        "From now on the thread may spend 5,000 tokens and $1.5 a day, $1,250 in all",
    ),
    (BudgetSet(), None, "The budget was lifted: nothing limits what the thread may spend"),
    (TurnStarted(TURN, "triage", "f00"), None, "Turn 3f2a91c4 began at the node triage"),
    (
        TurnStarted(TURN, "triage", "f00", retries=OTHER),
        None,
        "Turn 3f2a91c4 began at the node triage, to go on with turn b7000000",
    ),
    (
        TurnStarted(TURN, "triage", "f00", queued=12),
        None,
        "Turn 3f2a91c4 began at the node triage, with the message that had waited since version 12",
    ),
    (
        TurnEnqueued(TURN, "And B-4?", 3, "triage", "f00"),
        None,
        'The user said "And B-4?" during a turn, for whose end it waits; turn 3f2a91c4 will be about it',
    ),
    (
        TurnEnqueued(TURN, "Stop", 1, "triage", "f00", strategy="rollback"),
        None,
        'The user said "Stop" during a turn, which it rolls back; turn 3f2a91c4 will be about it',
    ),
    (TurnResumed("host:12", "f00"), None, "The worker host:12 went on with the turn"),
    (MessageAppended("user", "Where is A-17?", 4), None, 'The user said "Where is A-17?"'),
    (MessageAppended("assistant", "On its\n way.", 3), None, 'The agent said "On its way."'),
    (MessageAppended("assistant", "On", 1, partial=True), None, 'The agent said "On", and was cut off there'),
    (MessageAppended("assistant", None, 9), None, "The agent said nothing and asked for tools"),
    (
        ContextAssembled(3, 20, 1812, 6800, summarised=2, pinned=3),
        None,
        (
            "The model was to see the messages 3 to 20, the user's message of version 3, a summary of those up to 2: "
            "1,812 of at most 6,800 tokens"
        ),
    ),
    (
        ModelCalled("small", 1200, 5, 12, "stop", estimated=True),
        None,
        "The model small answered in 12 ms: about 1,200 tokens in and 5 out, finished by stop",
    ),
    (
        ModelFailed("big", "cloud", "HTTP 503", 40),
        None,
        'The model big of cloud did not answer within 40 ms: "HTTP 503"',
    ),
    (
        BudgetThresholdReached("tenant", Limit("day", 1_000), EVER, 900, 5 * PER_DOLLAR, agent="airline"),
        None,
        "The tenant has spent 900 tokens and $5 with airline, which is 80% or more of 1,000 tokens a day",
    ),
    (STATUS, None, 'The agent asked for order_status(order="A-17")'),
    (
        ApprovalRequested("hash", call=8),
        REFUND,
        'A person has to agree before refund(order="A-17", amount=5) may run',
    ),
    (
        ApprovalRequested("hash", call=8, because="outcome_unknown"),
        REFUND,
        'A person has to say what became of refund(order="A-17", amount=5): its process died after it was started',
    ),
    (SIGN, None, "A person has to agree before the node sign may run"),
    (ApprovalGranted(8), REFUND, 'A person granted refund(order="A-17", amount=5)'),
    (
        ApprovalGranted(8, {"order": "A-17", "amount": 3}),
        REFUND,
        'A person granted refund(order="A-17", amount=5) with other arguments: order="A-17", amount=3',
    ),
    (ApprovalGranted(8), SIGN, "A person granted the node sign"),
    (ApprovalDenied(8, "Too late.", 2), REFUND, 'A person denied refund(order="A-17", amount=5): "Too late."'),
    (ApprovalDenied(8, "No.", 2), SIGN, 'A person denied the node sign: "No."'),
    (ToolStarted(8), STATUS, "order_status was started"),
    (ToolStarted(8, attempt=2), STATUS, "order_status was started again (attempt 2)"),
    (
        ToolSucceeded(8, "shipped on Monday", 3, 12),
        STATUS,
        'order_status answered in 12 ms: "shipped on Monday"',
    ),
    (ToolFailed(8, "No such order.", 3, 12), STATUS, 'order_status failed after 12 ms: "No such order."'),
    (
        ToolOutcomeUnknown(8, "It may have run.", 4),
        STATUS,
        'The outcome of order_status(order="A-17") is unknown: "It may have run."',
    ),
    (
        ModelAnswered(0, "refund", "d1", "Which intent?"),
        None,
        'The model answered outside of the conversation to "Which intent?": "refund"',
    ),
    (
        ModelAnswered(0, None, calls=(ToolCall("c", "clock", {}),)),
        None,
        'The model answered outside of the conversation: "", and requested clock',
    ),
    (QuestionAsked("Refund?", "h"), None, 'The node asked a person: "Refund?"'),
    (QuestionAsked("Which order?", "h", to="customer"), None, 'The node asked the customer: "Which order?"'),
    (QuestionAsked("Which?", "h", call=7), None, 'A tool call asked a person: "Which?"'),
    (QuestionAnswered(9, {"ok": True}), QuestionAsked("Ok?", "h"), 'The answer to "Ok?" is {"ok":true}'),
    (QuestionAnswered(9, "A-17"), None, 'The answer is "A-17"'),
    (FanOutStarted([1]), None, "The node began to work on 1 item"),
    (FanOutStarted([1, 2]), None, "The node began to work on 2 items"),
    (FanOutStarted([1, 2], each="review"), None, "The node began to work on 2 items, each with review"),
    (
        ItemAdvanced(0, "look", "judge", {"a": 1}, 12),
        None,
        'Item 0 completed its node look in 12 ms and judge comes next: {"a":1}',
    ),
    (ItemCompleted(0, {"a": 1}, 12), None, 'Item 0 was done in 12 ms: {"a":1}'),
    (
        ItemFailed(1, 1, "Timeout", 500),
        None,
        'Item 1 failed at attempt 1: "Timeout"; the next attempt is in 500 ms',
    ),
    (ItemFailed(1, 3, "Timeout"), None, 'Item 1 failed at attempt 3: "Timeout"; there is no further attempt'),
    (
        StateUpdated({"order": "A-17", "mood": None}),
        None,
        'The values changed: order is "A-17", mood was removed',
    ),
    (StateUpdated({}), None, "The values changed: nothing differs"),
    (StateUpdated({"a": 1}, outside=True), None, "A caller changed the values during the turn: a is 1"),
    (NodeCompleted("triage", "look_up", 1, 3), None, "The node triage completed in 3 ms and look_up comes next"),
    (NodeCompleted("look_up", "END", 1, 3), None, "The node look_up completed in 3 ms and was the last one"),
    (
        NodeFailed("triage", 1, "ValueError: no", 3, 100),
        None,
        'The node triage failed at attempt 1 after 3 ms: "ValueError: no"; the next attempt is in 100 ms',
    ),
    (
        HistoryCompacted(40, "user: hello", 3),
        None,
        'A summary took the place of the messages up to version 40: "user: hello"',
    ),
    (CancellationRequested(TURN, "rolled_back"), None, "Turn 3f2a91c4 is to be rolled back"),
    (TurnCompleted(TURN), None, "Turn 3f2a91c4 completed"),
    (
        TurnFailed(TURN, "node_failed", "triage: ValueError: no"),
        None,
        'Turn 3f2a91c4 failed (node failed): "triage: ValueError: no"',
    ),
    (TurnCancelled(TURN, "interrupted"), None, "Turn 3f2a91c4 was interrupted"),
    (TurnRolledBack(TURN), None, "Turn 3f2a91c4 was rolled back: the thread is as it was before it"),
]


@pytest.mark.parametrize(("event", "about", "sentence"), SENTENCES, ids=lambda value: type(value).__name__)
def test_a_sentence_says_what_happened(event: Event, about: Event | None, sentence: str) -> None:
    assert describe(event, about) == sentence


def test_no_event_is_without_a_sentence() -> None:
    assert {type(event) for event, _, _ in SENTENCES} == set(EVENTS)


def test_what_is_said_about_an_earlier_event_is_looked_up_where_it_is() -> None:
    needing = {type(event) for event, about, _ in SENTENCES if about}
    assert {type(event) for event, _, _ in SENTENCES if refers_to(event)} == needing
    assert [refers_to(event) for event in (ToolStarted(8), ApprovalGranted(9), MessageEdited(3, "", 0))] == [8, 9, 3]


def test_a_sentence_can_be_said_where_the_earlier_event_is_not_known() -> None:
    for event, about, _ in SENTENCES:
        if about:
            assert describe(event)


def test_long_texts_are_cut() -> None:
    long = "word " * 10_000
    cut = f'"{("word " * 40).strip()} …"'
    assert len(cut) == MAX_QUOTED_LENGTH + 3
    assert describe(MessageAppended("user", long, 1)) == f"The user said {cut}"
    said = [
        StateUpdated({"a": long, "b": long}),
        ThreadOpened("g", {"a": long}),
        ToolRequested("call", "find", {"text": long, "more": long}),
        ItemCompleted(0, [long], 1),
        TurnFailed(TURN, "node_failed", long),
    ]
    assert max(len(describe(event)) for event in said) < MAX_QUOTED_LENGTH + 100
