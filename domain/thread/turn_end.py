"""How turns end, and how queued turns start after them."""

from collections.abc import Callable
from typing import Literal

from domain.thread import events
from domain.thread.events import Event, MessageAppended
from domain.thread.evolve import fold
from domain.thread.state import Queued, Running, Unopened

Events = tuple[Event, ...]

CALL_NOT_RUN = "This call was not run: the turn ended before it could."

CALL_OUTCOME_UNKNOWN = "It is not known whether this call had an effect: the turn ended while it ran."

NOTICE_TOKENS = 20
"""Estimated tokens of each of the two texts above, rounded up."""

Cancelling = Literal["cancelled", "interrupted", "rolled_back"]


def request_cancellation(state: Running, how: Cancelling) -> Events:
    """Ask the turn's worker to end it. A turn that waits for a person has no worker and ends at once.

    A request is ignored if an equally or more severe one was made before.
    """
    severity = ("cancelled", "interrupted", "rolled_back")
    turn = state.turn
    if turn.cancelling and severity.index(turn.cancelling) >= severity.index(how):
        return ()
    asked = (events.CancellationRequested(turn.turn_id, how),)
    return decide_next(state, asked, end_cancelled_turn) if turn.waits else asked


def end_cancelled_turn(state: Running, partial: MessageAppended | None = None) -> Events:
    """End a turn after a cancellation request; return no events if there was none.

    `partial` is what the model had written. It is kept unless a rollback drops it or tool calls are open: a message may
    not stand between a call and its result.
    """
    turn = state.turn
    if turn.cancelling is None:
        return ()
    if turn.cancelling == "rolled_back":
        return start_queued_turns(state, (*close_open_calls(state), events.TurnRolledBack(turn.turn_id)))
    said = () if partial is None or turn.calls else (partial,)
    cancelled = events.TurnCancelled(turn.turn_id, turn.cancelling)
    return start_queued_turns(state, (*said, *close_open_calls(state), cancelled))


def start_queued_turns(state: Running, ending: Events) -> Events:
    """Return `ending`, the events that end the turn, followed by the start of the next queued turn.

    A queued turn that a later one interrupts or rolls back starts and ends at once.
    """
    decided, after = ending, fold(state, ending)
    queue: tuple[Queued, ...] = () if isinstance(after, Unopened) else after.thread.queue
    for place, queued in enumerate(queue):
        decided += (
            events.TurnStarted(
                *(queued.turn_id, queued.node, queued.graph, queued.durability),
                queued=queued.version,
                agent_version=queued.agent_version,
                output=queued.output,
            ),
            MessageAppended("user", queued.content, queued.tokens),
        )
        later = {other.strategy for other in queue[place + 1 :]}
        if "rollback" in later:
            decided += (events.TurnRolledBack(queued.turn_id),)
        elif "interrupt" in later:
            decided += (events.TurnCancelled(queued.turn_id, "interrupted"),)
        else:
            break
    return decided


def decide_next(state: Running, decided: Events, more: Callable[[Running], Events]) -> Events:
    """Return `decided`, followed by what `more` decides in the state after these events."""
    after = fold(state, decided)
    return (*decided, *more(after)) if isinstance(after, Running) else decided


def close_open_calls(state: Running) -> Events:
    """Give every open call an outcome, because prompts may not contain a call without a result."""
    return tuple(
        events.ToolFailed(call.version, CALL_NOT_RUN, NOTICE_TOKENS, 0)
        if not call.attempt or (call.reason and call.status != "started")  # it waited for approval before its effect
        else events.ToolOutcomeUnknown(call.version, CALL_OUTCOME_UNKNOWN, NOTICE_TOKENS)
        for call in state.turn.calls
    )
