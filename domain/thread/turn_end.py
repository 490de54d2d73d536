"""How turns end, and what begins then."""

from collections.abc import Callable
from typing import Literal

from domain.thread import events
from domain.thread.events import Event, MessageAppended, TurnEnd
from domain.thread.evolve import fold
from domain.thread.state import Queued, Running, Unopened

Events = tuple[Event, ...]

CALL_NOT_RUN = "This call was not run: the turn ended before it could."

CALL_OUTCOME_UNKNOWN = "It is not known whether this call had an effect: the turn ended while it ran."

NOTICE_TOKENS = 20
"""What the two texts above count for, a little generously."""

Cancelling = Literal["cancelled", "interrupted", "rolled_back"]


def request_cancellation(state: Running, how: Cancelling) -> Events:
    """Ask whoever runs the turn to end it; a turn that waits for a person is run by nobody, and ends at once."""
    severity = ("cancelled", "interrupted", "rolled_back")
    turn = state.turn
    if turn.cancelling and severity.index(turn.cancelling) >= severity.index(how):
        return ()
    asked = (events.CancellationRequested(turn.turn_id, how),)
    return decide_next(state, asked, end_cancelled_turn) if turn.waits else asked


def end_cancelled_turn(state: Running, partial: MessageAppended | None = None) -> Events:
    """End a turn that was asked to end. What the model had written is kept, but between a call and its result."""
    turn = state.turn
    said = () if partial is None or turn.calls or turn.cancelling == "rolled_back" else (partial,)
    match turn.cancelling:
        case "rolled_back":
            end: TurnEnd = events.TurnRolledBack(turn.turn_id)
        case "cancelled" | "interrupted" as how:
            end = events.TurnCancelled(turn.turn_id, how)
        case None:
            return ()
    return start_queued_turns(state, (*said, *close_open_calls(state), end))


def start_queued_turns(state: Running, ending: Events) -> Events:
    """Begin what is queued after events that end the turn: of several, each that a later one interrupts ends too."""
    decided, after = ending, fold(state, ending)
    queue: tuple[Queued, ...] = () if isinstance(after, Unopened) else after.thread.queue
    for place, queued in enumerate(queue):
        decided += (
            events.TurnStarted(queued.turn_id, queued.node, queued.graph, queued.durability, queued=queued.version),
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
    """Decide more in the state that some events lead to."""
    after = fold(state, decided)
    return (*decided, *more(after)) if isinstance(after, Running) else decided


def close_open_calls(state: Running) -> Events:
    """Give every open call an outcome, so that no model is ever shown a call without one."""
    return tuple(
        events.ToolFailed(call.version, CALL_NOT_RUN, NOTICE_TOKENS, 0)
        if not call.attempt
        else events.ToolOutcomeUnknown(call.version, CALL_OUTCOME_UNKNOWN, NOTICE_TOKENS)
        for call in state.turn.calls
    )
