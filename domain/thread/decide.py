"""The decision function: the events that a command causes in a state, or the error that refuses it.

Commands are idempotent: a command whose effect is in the state already causes no events.
"""

from collections.abc import Iterable
from typing import assert_never

from domain.errors import (
    InvalidInput,
    NotRetriable,
    ThreadAlreadyOpen,
    ThreadBusy,
    TurnHasEnded,
    UnopenedThread,
)
from domain.json import check_json, check_text, merge_patch
from domain.models.chat import estimate_tokens
from domain.thread import events
from domain.thread.approvals import decide_approval
from domain.thread.codec import to_json
from domain.thread.commands import (
    CancelTurn,
    Command,
    DecideApproval,
    EditMessage,
    ForkThread,
    OpenThread,
    RecordThreshold,
    RetryTurn,
    SetBudget,
    StartTurn,
    UpdateValues,
)
from domain.thread.decide_runtime import decide_runtime_command
from domain.thread.evolve import digest, fold
from domain.thread.limits import check_limits
from domain.thread.size_limits import (
    MAX_QUEUED_BYTES,
    MAX_SUBJECT_CHARACTERS,
    MAX_VALUES_CHARACTERS,
    bytes_of,
    check_json_size,
    check_text_size,
)
from domain.thread.state import Idle, Running, State, Unopened
from domain.thread.turn_end import (
    Cancelling,
    Events,
    decide_next,
    request_cancellation,
)

MAX_QUEUED_MESSAGES = 256
"""Maximum number of messages that wait for the end of a thread's running turn."""


def decide(command: Command, state: State) -> Events:
    """Return the events that `command` causes in `state`; none if it changes nothing.

    Raises:
        Conflict: the thread's state does not allow the command.
        InvalidInput: a part of the command is not accepted.
        UnknownApproval: the decision is about an approval that is not pending.
    """
    match command:
        case OpenThread():
            return _open_thread(command, state)
        case ForkThread():
            return (events.ThreadForked(command.parent, command.at_version),)
        case EditMessage():
            return _edit_message(command, state)
        case UpdateValues():
            return _update_values(command, state)
        case SetBudget():
            return _set_budget(command, state)
        case RecordThreshold():
            return _record_threshold(command, state)
        case StartTurn():
            return _start_turn(command, state)
        case RetryTurn():
            return _retry_turn(command, state)
        case CancelTurn():
            return _cancel_turn(command, state)
        case DecideApproval():
            return decide_approval(command, state)
        case _:
            return decide_runtime_command(command, state)


def decide_all(commands: Iterable[Command], state: State) -> Events:
    """Decide several commands, each in the state after the ones before it."""
    decided: Events = ()
    pending: Events = ()  # of the previous command, not folded yet: mostly there is one command and no fold is needed
    for command in commands:
        state = fold(state, pending)
        pending = decide(command, state)
        decided += pending
    return decided


def _opened(state: State) -> Idle | Running:
    if isinstance(state, Unopened):
        raise UnopenedThread
    return state


def _open_thread(command: OpenThread, state: State) -> Events:
    check_json(command.values, "values")
    check_json_size(command.values, "values", MAX_VALUES_CHARACTERS)
    check_text(command.subject, "subject")
    if len(command.subject) > MAX_SUBJECT_CHARACTERS:
        raise InvalidInput("subject", f"must have at most {MAX_SUBJECT_CHARACTERS} characters")
    if isinstance(state, Unopened):
        return (events.ThreadOpened(command.graph, command.values, command.subject),)
    thread = state.thread
    given = (command.graph, digest(command.values), command.subject)
    if given == (thread.graph, thread.opened_with, thread.subject):
        return ()
    raise ThreadAlreadyOpen


def _update_values(command: UpdateValues, state: State) -> Events:
    check_json(command.changes, "values")
    values = _opened(state).thread.values
    merged = merge_patch(values, command.changes)
    check_json_size(merged, "values", MAX_VALUES_CHARACTERS)
    # Compared as JSON, because in Python 1 equals True and 1.0.
    changed = to_json(merged) != to_json(values)
    return (events.StateUpdated(command.changes, outside=isinstance(state, Running)),) if changed else ()


def _set_budget(command: SetBudget, state: State) -> Events:
    limits = check_limits(command.limits)
    return (events.BudgetSet(limits),) if limits != _opened(state).thread.limits else ()


def _record_threshold(command: RecordThreshold, state: State) -> Events:
    _opened(state)
    return (command.fact,)


def _edit_message(command: EditMessage, state: State) -> Events:
    check_text(command.content, "content")
    check_text_size(command.content, "content")
    window = _opened(state).thread.window
    edited = next((m for m in window if m.version == command.message), None)
    if edited is None or edited.role == "tool":
        known = ", ".join(str(m.version) for m in window if m.role != "tool") or "none"
        raise InvalidInput("message", f"must be the version of a message in the live window, one of: {known}")
    tokens = command.tokens + estimate_tokens(edited.tool_calls, edited.extra if edited.tool_calls else None)
    if (edited.content, edited.tokens) == (command.content, tokens):
        return ()
    return (events.MessageEdited(command.message, command.content, tokens),)


def _start_turn(command: StartTurn, state: State) -> Events:
    check_text(command.content, "user_input")
    check_text_size(command.content, "user_input")
    match state:
        case Unopened():
            raise UnopenedThread
        case Running():
            return _start_while_running(command, state)
        case Idle(thread=thread):
            if thread.last_turn is not None and thread.last_turn.turn_id == command.turn_id:
                return ()
            return (
                events.TurnStarted(command.turn_id, command.node, command.graph, command.durability),
                events.MessageAppended("user", command.content, command.tokens),
            )
        case _:
            assert_never(state)


def _start_while_running(command: StartTurn, state: Running) -> Events:
    """Apply the message's strategy while another turn is running."""
    turn, queue = state.turn, state.thread.queue
    if command.turn_id in {turn.turn_id, *(queued.turn_id for queued in queue)}:
        return ()
    if command.strategy == "reject":
        raise ThreadBusy
    if len(queue) >= MAX_QUEUED_MESSAGES:
        raise ThreadBusy(
            f"{MAX_QUEUED_MESSAGES} messages are waiting for the running turn already. Send this one again later."
        )
    waiting = sum(bytes_of(queued.content) for queued in queue)
    if waiting + bytes_of(command.content) > MAX_QUEUED_BYTES:
        raise ThreadBusy(
            f"The messages that are waiting for the running turn take {waiting:,} bytes; with this one, they would "
            f"take more than {MAX_QUEUED_BYTES:,}. Send it again later."
        )
    enqueued = events.TurnEnqueued(
        command.turn_id,
        command.content,
        command.tokens,
        command.node,
        command.graph,
        command.durability,
        command.strategy,
    )
    if command.strategy == "enqueue":
        return (enqueued,)
    how: Cancelling = "interrupted" if command.strategy == "interrupt" else "rolled_back"
    return decide_next(state, (enqueued,), lambda after: request_cancellation(after, how))


def _cancel_turn(command: CancelTurn, state: State) -> Events:
    thread = _opened(state).thread
    last = thread.last_turn
    if last and last.turn_id == command.turn_id and last.outcome == "cancelled":
        return ()
    if any(queued.turn_id == command.turn_id for queued in thread.queue):
        return (events.TurnCancelled(command.turn_id, "cancelled"),)
    if not (isinstance(state, Running) and state.turn.turn_id == command.turn_id):
        raise TurnHasEnded
    return request_cancellation(state, "cancelled")


def _retry_turn(command: RetryTurn, state: State) -> Events:
    match state:
        case Unopened():
            raise UnopenedThread
        case Running(turn=turn):
            if turn.turn_id == command.turn_id:
                return ()
            raise ThreadBusy
        case Idle(thread=thread):
            last = thread.last_turn
            if last and last.turn_id == command.turn_id:
                return ()
            if last is None or last.turn_id != command.retried or last.node in {None, events.END}:
                raise NotRetriable
            node = last.node or ""
            return (events.TurnStarted(command.turn_id, node, command.graph, command.durability, command.retried),)
        case _:
            assert_never(state)
