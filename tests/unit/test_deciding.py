"""The events that each command causes, given a thread's history."""

import pytest

from domain.errors import InvalidInput, ThreadAlreadyOpen, ThreadBusy, UnopenedThread
from domain.ids import Version
from domain.thread.commands import (
    CompactHistory,
    CompleteNode,
    EndCall,
    FailAttempt,
    FailTurn,
    OpenThread,
    StartCalls,
    StartTurn,
    UpdateValues,
)
from domain.thread.events import (
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeEvent,
    NodeFailed,
    StateUpdated,
    ThreadOpened,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from domain.thread.turn_end import CALL_NOT_RUN, CALL_OUTCOME_UNKNOWN, NOTICE_TOKENS
from tests.support.given import A_RUNNING_TURN, ASKED, OPENED, OTHER_TURN, STARTED, TURN, given

ANSWER = MessageAppended("assistant", "hi", 1)
REQUEST = ToolRequested("a", "clock", {})
ASKING = (*A_RUNNING_TURN, MessageAppended("assistant", None, 1), REQUEST)
CALL = Version(5)
START = StartTurn(TURN, "hello", 1, "route_intent", "f00")


def test_a_thread_is_opened_once() -> None:
    given().when(OpenThread("assistant", {"a": 1})).then(ThreadOpened("assistant", {"a": 1}))
    given(OPENED).when(OpenThread("assistant")).then_nothing()


@pytest.mark.parametrize("other", [OpenThread("other"), OpenThread("assistant", {"a": 1})])
def test_an_open_thread_is_not_opened_otherwise(other: OpenThread) -> None:
    given(OPENED).when(other).then_refused(ThreadAlreadyOpen)


def test_a_message_starts_a_turn() -> None:
    given(OPENED).when(START).then(STARTED, ASKED)


def test_starting_the_same_turn_again_does_nothing_while_it_runs_and_after() -> None:
    given(*A_RUNNING_TURN).when(START).then_nothing()
    given(*A_RUNNING_TURN, TurnCompleted(TURN)).when(START).then_nothing()


def test_a_busy_thread_takes_no_second_message() -> None:
    again = StartTurn(OTHER_TURN, "hello?", 1, "route_intent", "f00")
    given(*A_RUNNING_TURN).when(again).then_refused(ThreadBusy)
    given(*A_RUNNING_TURN, TurnCompleted(TURN)).when(again).then(
        TurnStarted(OTHER_TURN, "route_intent", "f00"), MessageAppended("user", "hello?", 1)
    )


@pytest.mark.parametrize("command", [START, UpdateValues({"a": 1})])
def test_nothing_happens_in_a_thread_that_is_not_open(command: StartTurn | UpdateValues) -> None:
    given().when(command).then_refused(UnopenedThread)


def test_values_change_by_what_differs_in_json() -> None:
    opened = ThreadOpened("assistant", {"a": 1})
    given(opened).when(UpdateValues({"a": 1})).then_nothing()
    given(opened).when(UpdateValues({"b": None})).then_nothing()
    given(opened).when(UpdateValues({"a": True})).then(StateUpdated({"a": True}))
    given(opened).when(UpdateValues({"a": None})).then(StateUpdated({"a": None}))


def test_values_may_change_while_a_turn_runs() -> None:
    given(*A_RUNNING_TURN).when(UpdateValues({"a": 1})).then(StateUpdated({"a": 1}, outside=True))


def test_values_do_not_grow_for_ever() -> None:
    half = "x" * 140_000
    given(ThreadOpened("assistant", {"a": half})).when(UpdateValues({"b": half})).then_refused(InvalidInput, "262,144")
    given(ThreadOpened("assistant", {"a": half})).when(UpdateValues({"a": half + "y"})).then(
        StateUpdated({"a": half + "y"})
    )
    given().when(OpenThread("assistant", {"a": half, "b": half})).then_refused(InvalidInput, "values")
    twice = CompleteNode(TURN, 0, (StateUpdated({"a": half}), StateUpdated({"b": half})), "next", 7)
    given(*A_RUNNING_TURN).when(twice).then_refused(InvalidInput, r"facts\.1\.changes")


def test_values_that_cannot_be_stored_are_refused_by_name() -> None:
    given(OPENED).when(UpdateValues({"a": ["\0"]})).then_refused(InvalidInput, r"values\.a\.0")


def test_a_completed_node_leads_to_the_next_one() -> None:
    given(*A_RUNNING_TURN).when(CompleteNode(TURN, 0, (ANSWER,), "next", 7)).then(
        ANSWER, NodeCompleted("route_intent", "next", 1, 7)
    )


def test_a_node_that_leads_to_the_end_completes_the_turn() -> None:
    given(*A_RUNNING_TURN).when(CompleteNode(TURN, 0, (), "END", 7)).then(
        NodeCompleted("route_intent", "END", 1, 7), TurnCompleted(TURN)
    )


def test_a_late_or_repeated_report_does_nothing() -> None:
    moved = (*A_RUNNING_TURN, NodeCompleted("route_intent", "next", 1, 7))
    given(*moved).when(CompleteNode(TURN, 0, (ANSWER,), "next", 7)).then_nothing()
    given(*moved).when(FailAttempt(TURN, 0, 1, "boom", 7, None)).then_nothing()
    given(*moved).when(CompleteNode(OTHER_TURN, 1, (), "END", 7)).then_nothing()
    given(OPENED).when(FailTurn(TURN, "step_limit", "")).then_nothing()
    retried = (*A_RUNNING_TURN, NodeFailed("route_intent", 1, "boom", 7, 500))
    given(*retried).when(FailAttempt(TURN, 0, 1, "boom", 7, 500)).then_nothing()


def test_a_failed_attempt_is_followed_by_another_or_ends_the_turn() -> None:
    given(*A_RUNNING_TURN).when(FailAttempt(TURN, 0, 1, "boom", 7, 500)).then(
        NodeFailed("route_intent", 1, "boom", 7, 500)
    )
    given(*A_RUNNING_TURN).when(FailAttempt(TURN, 0, 1, "boom", 7, None)).then(
        NodeFailed("route_intent", 1, "boom", 7), TurnFailed(TURN, "node_failed", "route_intent: boom")
    )


def test_a_call_is_started_once_and_has_one_outcome() -> None:
    start = StartCalls(TURN, ((CALL, 1),))
    end = EndCall(TURN, CALL, "succeeded", "noon", 1, 9)
    given(*ASKING).when(end).then_nothing()
    given(*ASKING).when(start).then(ToolStarted(CALL))
    given(*ASKING, ToolStarted(CALL)).when(start).then_nothing()
    given(*ASKING, ToolStarted(CALL)).when(end).then(ToolSucceeded(CALL, "noon", 1, 9))
    given(*ASKING, ToolStarted(CALL), ToolSucceeded(CALL, "noon", 1, 9)).when(end).then_nothing()
    failed = EndCall(TURN, CALL, "failed", "late", 1, 9)
    given(*ASKING, ToolStarted(CALL)).when(failed).then(ToolFailed(CALL, "late", 1, 9))
    unknown = EndCall(TURN, CALL, "unknown", "who knows", 2)
    given(*ASKING, ToolStarted(CALL)).when(unknown).then(ToolOutcomeUnknown(CALL, "who knows", 2))


def test_no_call_is_left_without_an_outcome_when_the_turn_ends() -> None:
    limit = FailTurn(TURN, "step_limit", "too long")
    failed = TurnFailed(TURN, "step_limit", "too long")
    given(*ASKING).when(limit).then(ToolFailed(CALL, CALL_NOT_RUN, NOTICE_TOKENS, 0), failed)
    given(*ASKING, ToolStarted(CALL)).when(limit).then(
        ToolOutcomeUnknown(CALL, CALL_OUTCOME_UNKNOWN, NOTICE_TOKENS), failed
    )
    given(*A_RUNNING_TURN).when(CompleteNode(TURN, 0, (ANSWER, REQUEST), "END", 7)).then(
        ANSWER,
        REQUEST,
        ToolFailed(CALL, CALL_NOT_RUN, NOTICE_TOKENS, 0),
        NodeCompleted("route_intent", "END", 1, 7),
        TurnFailed(
            TURN,
            "calls_not_run",
            "route_intent led to END, but the model had requested calls that were not run: clock. Let the graph lead "
            "to a node that awaits run_tools() while state.turn.calls has any, or offer the model no tools there.",
        ),
    )


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ((MessageAppended("user", "me?", 1),), "facts.0"),
        ((MessageAppended("assistant", "\0", 1),), "facts.0"),
        ((REQUEST,), "facts.0"),
        ((ANSWER, ToolRequested("a", "clock", {"x": 2**64})), r"facts\.1\.arguments\.x"),
        ((ANSWER, ToolRequested("\ud800", "clock", {})), r"facts\.1\.call_id"),
        ((ModelCalled("m", 10**400, 1, 1, "stop"),), r"facts\.0\.prompt_tokens"),
        ((TurnCompleted(TURN),), "facts.0: a node cannot record a TurnCompleted"),
        ((NodeCompleted("x", "y", 1, 1),), "a node cannot record a NodeCompleted"),
        ((ANSWER, REQUEST, ANSWER), "facts.2"),
        ((StateUpdated({"a": float("nan")}),), r"facts\.0\.changes\.a"),
        ((ANSWER, REQUEST, HistoryCompacted(3, "", 0)), "facts.2"),
        ((HistoryCompacted(9, "", 0),), "facts.0"),
        ((HistoryCompacted(3, "", 0), REQUEST), "facts.1"),
    ],
)
def test_facts_that_no_prompt_could_be_made_of_are_refused(facts: tuple[NodeEvent, ...], field: str) -> None:
    given(*A_RUNNING_TURN).when(CompleteNode(TURN, 0, facts, "next", 7)).then_refused(InvalidInput, field)


def test_reports_that_the_log_could_not_hold_are_refused() -> None:
    given(*A_RUNNING_TURN).when(FailTurn(TURN, "step_limit", "\ud800")).then_refused(InvalidInput, "detail")
    given(*A_RUNNING_TURN).when(FailAttempt(TURN, 0, 1, "\0", 7, None)).then_refused(InvalidInput, "error")
    told = EndCall(TURN, CALL, "succeeded", "\0", 1)
    given(*ASKING, ToolStarted(CALL)).when(told).then_refused(InvalidInput, "content")


def test_history_is_compacted_once_while_no_call_is_open() -> None:
    compact = CompactHistory(TURN, HistoryCompacted(3, "they met", 2))
    given(*A_RUNNING_TURN).when(compact).then(HistoryCompacted(3, "they met", 2))
    given(*A_RUNNING_TURN, HistoryCompacted(3, "they met", 2)).when(compact).then_nothing()
    given(*ASKING).when(compact).then_refused(InvalidInput, "while no call is open")


def test_a_thread_that_was_opened_in_the_same_way_is_open_whatever_became_of_its_values() -> None:
    opened = (ThreadOpened("assistant", {"a": 1}), StateUpdated({"a": 2}))
    given(*opened).when(OpenThread("assistant", {"a": 1})).then_nothing()
    given(*opened).when(OpenThread("assistant", {"a": 2})).then_refused(ThreadAlreadyOpen)


def test_history_is_not_cut_between_a_call_and_its_outcome() -> None:
    told = (*ASKING, ToolStarted(CALL), ToolSucceeded(CALL, "noon", 1, 9))
    cut = CompleteNode(TURN, 0, (HistoryCompacted(4, "", 0),), "next", 7)
    given(*told).when(cut).then_refused(InvalidInput, "while no call is open")
