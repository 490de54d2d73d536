"""What happens to a message, or to a cancellation, while a turn is running."""

from uuid import UUID

import pytest

from domain.errors import NotRetriable, ThreadBusy, TurnHasEnded
from domain.ids import TurnId
from domain.thread.commands import CancelTurn, CompleteNode, FailAttempt, RetryTurn, StartTurn, StopTurn, UpdateValues
from domain.thread.decide import MAX_QUEUED_MESSAGES, decide
from domain.thread.events import (
    END,
    CancellationRequested,
    Event,
    MessageAppended,
    NodeCompleted,
    NodeFailed,
    StateUpdated,
    Strategy,
    ToolFailed,
    ToolRequested,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnFailed,
    TurnRolledBack,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Idle, Running
from domain.thread.turn_end import CALL_NOT_RUN, NOTICE_TOKENS
from tests.support.given import A_RUNNING_TURN, ASKED, OPENED, OTHER_TURN, STARTED, TURN, given

THIRD = TurnId(UUID(int=3))


def say(turn_id: TurnId, strategy: Strategy) -> StartTurn:
    return StartTurn(turn_id, "more", 1, "route_intent", "f00", strategy)


def queued(turn_id: TurnId, strategy: Strategy) -> TurnEnqueued:
    return TurnEnqueued(turn_id, "more", 1, "route_intent", "f00", "sync", strategy)


def begun(turn_id: TurnId, version: int) -> tuple[Event, ...]:
    return TurnStarted(turn_id, "route_intent", "f00", queued=version), MessageAppended("user", "more", 1)


LAST = CompleteNode(TURN, 0, (), END, 5)
COMPLETED = NodeCompleted("route_intent", END, 1, 5)


class TestStrategies:
    def test_reject_refuses(self) -> None:
        given(*A_RUNNING_TURN).when(say(OTHER_TURN, "reject")).then_refused(ThreadBusy)

    def test_enqueue_lets_the_message_wait(self) -> None:
        given(*A_RUNNING_TURN).when(say(OTHER_TURN, "enqueue")).then(queued(OTHER_TURN, "enqueue"))

    @pytest.mark.parametrize(("strategy", "how"), [("interrupt", "interrupted"), ("rollback", "rolled_back")])
    def test_the_others_ask_that_the_turn_end(self, strategy: Strategy, how: str) -> None:
        given(*A_RUNNING_TURN).when(say(OTHER_TURN, strategy)).then(
            queued(OTHER_TURN, strategy),
            CancellationRequested(TURN, how),  # type: ignore[arg-type]
        )

    def test_a_message_that_came_before_changes_nothing(self) -> None:
        waiting = (*A_RUNNING_TURN, queued(OTHER_TURN, "enqueue"))
        given(*waiting).when(say(OTHER_TURN, "enqueue")).then_nothing()
        given(*waiting).when(say(TURN, "interrupt")).then_nothing()

    def test_the_queue_has_an_end(self) -> None:
        waiting = [queued(TurnId(UUID(int=100 + n)), "enqueue") for n in range(MAX_QUEUED_MESSAGES)]
        given(*A_RUNNING_TURN, *waiting).when(say(OTHER_TURN, "enqueue")).then_refused(ThreadBusy, "256 messages")

    def test_what_waits_begins_with_the_end_of_the_turn(self) -> None:
        given(*A_RUNNING_TURN, queued(OTHER_TURN, "enqueue")).when(LAST).then(
            COMPLETED, TurnCompleted(TURN), *begun(OTHER_TURN, 4)
        )

    def test_what_a_later_message_interrupts_begins_and_ends(self) -> None:
        given(
            *A_RUNNING_TURN,
            queued(OTHER_TURN, "enqueue"),
            queued(THIRD, "interrupt"),
            CancellationRequested(TURN, "interrupted"),
        ).when(StopTurn(TURN, "half an ans", 3)).then(
            MessageAppended("assistant", "half an ans", 3, partial=True),
            TurnCancelled(TURN, "interrupted"),
            *begun(OTHER_TURN, 4),
            TurnCancelled(OTHER_TURN, "interrupted"),
            *begun(THIRD, 5),
        )

    def test_rolling_back_returns_to_what_was_before_but_keeps_what_others_changed(self) -> None:
        events = (
            OPENED,
            StateUpdated({"mine": 1}),
            STARTED,
            ASKED,
            StateUpdated({"node": 1}),
            StateUpdated({"caller": 1}, outside=True),
            queued(OTHER_TURN, "rollback"),
            CancellationRequested(TURN, "rolled_back"),
        )
        more = decide(StopTurn(TURN, "half", 1), fold(INITIAL, events))
        assert more == (TurnRolledBack(TURN), *begun(OTHER_TURN, 7))
        after = fold(INITIAL, (*events, *more))
        assert isinstance(after, Running)
        assert after.thread.values == {"mine": 1, "caller": 1}
        assert [message.content for message in after.thread.window] == ["more"]


class TestCancelling:
    def test_asks_the_worker_of_the_turn(self) -> None:
        given(*A_RUNNING_TURN).when(CancelTurn(TURN)).then(CancellationRequested(TURN, "cancelled"))
        given(*A_RUNNING_TURN, CancellationRequested(TURN, "cancelled")).when(CancelTurn(TURN)).then_nothing()

    def test_whatever_the_runner_reports_next_ends_the_turn(self) -> None:
        asked = (*A_RUNNING_TURN, CancellationRequested(TURN, "cancelled"))
        cancelled = TurnCancelled(TURN, "cancelled")
        given(*asked).when(LAST).then(COMPLETED, cancelled)
        given(*asked).when(CompleteNode(TURN, 0, (), "next", 5)).then(
            NodeCompleted("route_intent", "next", 1, 5), cancelled
        )
        given(*asked).when(FailAttempt(TURN, 0, 1, "oh", 5, 100)).then(
            NodeFailed("route_intent", 1, "oh", 5), cancelled
        )
        given(*asked).when(StopTurn(TURN, None, 0)).then(cancelled)

    def test_open_calls_have_an_outcome_and_no_words_come_between(self) -> None:
        asked = MessageAppended("assistant", None, 3)
        call = ToolRequested("c1", "act", {})
        given(*A_RUNNING_TURN, asked, call, CancellationRequested(TURN, "cancelled")).when(
            StopTurn(TURN, "half", 1)
        ).then(ToolFailed(5, CALL_NOT_RUN, NOTICE_TOKENS, 0), TurnCancelled(TURN, "cancelled"))

    def test_a_turn_without_a_cancellation_request_is_not_stopped(self) -> None:
        given(*A_RUNNING_TURN).when(StopTurn(TURN, "half", 1)).then_nothing()

    def test_a_message_that_waits_is_taken_off_the_queue(self) -> None:
        events = (*A_RUNNING_TURN, queued(OTHER_TURN, "enqueue"))
        given(*events).when(CancelTurn(OTHER_TURN)).then(TurnCancelled(OTHER_TURN, "cancelled"))
        given(*events, TurnCancelled(OTHER_TURN, "cancelled")).when(LAST).then(COMPLETED, TurnCompleted(TURN))

    def test_what_has_ended_cannot_be_cancelled(self) -> None:
        given(*A_RUNNING_TURN, COMPLETED, TurnCompleted(TURN)).when(CancelTurn(TURN)).then_refused(TurnHasEnded)
        given(*A_RUNNING_TURN).when(CancelTurn(OTHER_TURN)).then_refused(TurnHasEnded)
        cancelled = (*A_RUNNING_TURN, CancellationRequested(TURN, "cancelled"), TurnCancelled(TURN, "cancelled"))
        given(*cancelled).when(CancelTurn(TURN)).then_nothing()

    def test_values_changed_from_outside_are_marked(self) -> None:
        given(*A_RUNNING_TURN).when(UpdateValues({"a": 1})).then(StateUpdated({"a": 1}, outside=True))
        given(OPENED).when(UpdateValues({"a": 1})).then(StateUpdated({"a": 1}))


class TestRetrying:
    FAILED = (
        *A_RUNNING_TURN,
        NodeCompleted("route_intent", "generate_response", 1, 5),
        NodeFailed("generate_response", 1, "down", 5),
        TurnFailed(TURN, "node_failed", "generate_response: down"),
    )

    def test_a_failed_turn_goes_on_at_the_failed_node(self) -> None:
        given(*self.FAILED).when(RetryTurn(TURN, OTHER_TURN, "f00")).then(
            TurnStarted(OTHER_TURN, "generate_response", "f00", retries=TURN)
        )

    def test_repeating_it_changes_nothing(self) -> None:
        retried = (*self.FAILED, TurnStarted(OTHER_TURN, "generate_response", "f00", retries=TURN))
        given(*retried).when(RetryTurn(TURN, OTHER_TURN, "f00")).then_nothing()
        given(*retried).when(RetryTurn(TURN, THIRD, "f00")).then_refused(ThreadBusy)

    def test_only_the_last_turn_and_only_if_it_did_not_end_well(self) -> None:
        given(*A_RUNNING_TURN, COMPLETED, TurnCompleted(TURN)).when(RetryTurn(TURN, OTHER_TURN, "f00")).then_refused(
            NotRetriable
        )
        given(*self.FAILED).when(RetryTurn(OTHER_TURN, THIRD, "f00")).then_refused(NotRetriable)
        given(OPENED).when(RetryTurn(TURN, OTHER_TURN, "f00")).then_refused(NotRetriable)

    def test_a_turn_that_was_cancelled_at_its_very_end_has_nothing_left(self) -> None:
        ended = (
            *A_RUNNING_TURN,
            CancellationRequested(TURN, "cancelled"),
            COMPLETED,
            TurnCancelled(TURN, "cancelled"),
        )
        assert isinstance(fold(INITIAL, ended), Idle)
        given(*ended).when(RetryTurn(TURN, OTHER_TURN, "f00")).then_refused(NotRetriable)
