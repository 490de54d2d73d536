"""The decision function: the events that a command causes in a state, or the error that refuses it.

Commands are idempotent: a command whose effect is in the state already causes no events.
"""

from collections.abc import Iterable

from domain.errors import InvalidInput, NotRetriable, ThreadAlreadyOpen, ThreadBusy, TurnHasEnded, UnopenedThread
from domain.json import JsonObject, check_json, check_text, merge_patch
from domain.models.chat import estimate_tokens
from domain.thread import commands, events, size_limits
from domain.thread.approvals import decide_approval
from domain.thread.codec import to_json
from domain.thread.commands import Command
from domain.thread.decide_runtime import decide_runtime_command
from domain.thread.evolve import digest, fold
from domain.thread.limits import check_limits
from domain.thread.questions import answer, question_for_customer
from domain.thread.state import Idle, Queued, Running, State, Thread, Unopened
from domain.thread.subject import check_subject
from domain.thread.turn_end import Cancelling, Events, decide_next, request_cancellation

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
        case commands.OpenThread():
            return _open_thread(command, state)
        case commands.ForkThread():
            return (events.ThreadForked(command.parent, command.at_version),)
        case commands.EditMessage():
            return _edit_message(command, state)
        case commands.UpdateValues():
            return _update_values(command, state)
        case commands.SetBudget():
            return _set_budget(command, state)
        case commands.RecordThreshold():
            _opened(state)
            return (command.fact,)
        case commands.StartTurn():
            return _start_turn(command, state)
        case commands.RetryTurn():
            return _retry_turn(command, state)
        case commands.CancelTurn():
            return _cancel_turn(command, state)
        case commands.DecideApproval():
            return decide_approval(command, state)
        case commands.AnswerQuestion():
            return answer(command, state)
        case _:
            return decide_runtime_command(command, state)


def decide_all(following: Iterable[Command], state: State) -> Events:
    """Decide several commands, each in the state after the ones before it."""
    decided: Events = ()
    pending: Events = ()  # of the previous command, not folded yet: mostly there is one command and no fold is needed
    for command in following:
        state = fold(state, pending)
        pending = decide(command, state)
        decided += pending
    return decided


def _opened(state: State) -> Idle | Running:
    if isinstance(state, Unopened):
        raise UnopenedThread
    return state


def _open_thread(command: commands.OpenThread, state: State) -> Events:
    check_json(command.values, "values")
    size_limits.check_json_size(command.values, "values", size_limits.MAX_VALUES_CHARACTERS)
    if command.subject:
        check_subject(command.subject)
    limits = check_limits(command.limits)
    if isinstance(state, Unopened):
        return (events.ThreadOpened(command.graph, command.values, command.subject, limits),)
    if command.graph != state.thread.graph:
        raise ThreadAlreadyOpen
    check_opened_with(state.thread, command.values, command.subject, limits)
    return ()


def check_opened_with(
    thread: Thread,
    values: JsonObject | None = None,
    subject: str | None = None,
    limits: tuple[events.Limit, ...] | None = None,
) -> None:
    """Raise `ThreadAlreadyOpen` unless a thread was opened with these; None stands for anything."""
    if (
        (values is not None and digest(values) != thread.opened_with)
        or subject not in {None, thread.subject}
        or (limits is not None and check_limits(limits) != thread.opened_limits)
    ):
        raise ThreadAlreadyOpen


def _update_values(command: commands.UpdateValues, state: State) -> Events:
    check_json(command.changes, "values")
    values = _opened(state).thread.values
    merged = merge_patch(values, command.changes)
    size_limits.check_json_size(merged, "values", size_limits.MAX_VALUES_CHARACTERS)
    # Compared as JSON, because in Python 1 equals True and 1.0.
    changed = to_json(merged) != to_json(values)
    return (events.StateUpdated(command.changes, outside=isinstance(state, Running)),) if changed else ()


def _set_budget(command: commands.SetBudget, state: State) -> Events:
    limits = check_limits(command.limits)
    return (events.BudgetSet(limits),) if limits != _opened(state).thread.limits else ()


def _edit_message(command: commands.EditMessage, state: State) -> Events:
    check_text(command.content, "content")
    size_limits.check_text_size(command.content, "content")
    window = _opened(state).thread.window
    edited = next((m for m in window if m.version == command.message), None)
    if edited is None or edited.role == "tool":
        known = ", ".join(str(m.version) for m in window if m.role != "tool") or "none"
        raise InvalidInput("message", f"must be the version of a message in the live window, one of: {known}")
    tokens = command.tokens + estimate_tokens(edited.tool_calls, edited.extra if edited.tool_calls else None)
    if (edited.content, edited.tokens) == (command.content, tokens):
        return ()
    return (events.MessageEdited(command.message, command.content, tokens),)


def _start_turn(command: commands.StartTurn, state: State) -> Events:
    check_text(command.content, "user_input")
    size_limits.check_text_size(command.content, "user_input")
    if command.output:
        check_json(command.output.schema, "output.schema")
        size_limits.check_json_size(command.output.schema, "output.schema", size_limits.MAX_OUTPUT_SCHEMA_CHARACTERS)
    last = _opened(state).thread.last_turn
    if isinstance(state, Running):
        return _start_while_running(command, state)
    if last and last.turn_id == command.turn_id:
        return ()
    return (
        events.TurnStarted(
            *(command.turn_id, command.node, command.graph, command.durability),
            agent_version=command.agent_version,
            output=command.output,
        ),
        events.MessageAppended("user", command.content, command.tokens),
    )


def _start_while_running(command: commands.StartTurn, state: Running) -> Events:
    """Apply the message's strategy while another turn is running."""
    turn, queue = state.turn, state.thread.queue
    if command.turn_id in {turn.turn_id, *(queued.turn_id for queued in queue)}:
        return ()
    if question := question_for_customer(state):
        if command.output is not None and command.output != turn.output:
            raise InvalidInput(
                "output", "this message answers a question of the running turn, whose output is as it began; omit it"
            )
        said = events.MessageAppended("user", command.content, command.tokens)
        return (said, events.QuestionAnswered(question.version, command.content))
    if command.strategy == "reject" and turn.waits:
        raise ThreadBusy(
            "The running turn waits for a person, as GET .../approvals shows. Decide, or set `strategy` to enqueue, "
            "interrupt or rollback."
        )
    if command.strategy == "reject":
        raise ThreadBusy
    if len(queue) >= MAX_QUEUED_MESSAGES:
        raise ThreadBusy(
            f"{MAX_QUEUED_MESSAGES} messages are waiting for the running turn already. Send this one again later."
        )
    waiting = sum(map(_queued_bytes, queue))
    if waiting + _queued_bytes(command) > size_limits.MAX_QUEUED_BYTES:
        raise ThreadBusy(
            f"The messages that are waiting for the running turn take {waiting:,} bytes; with this one, they would "
            f"take more than {size_limits.MAX_QUEUED_BYTES:,}. Send it again later."
        )
    message = (command.turn_id, command.content, command.tokens, command.node, command.graph)
    as_asked = (command.durability, command.strategy, command.agent_version, command.output)
    enqueued = events.TurnEnqueued(*message, *as_asked)
    if command.strategy == "enqueue":
        return (enqueued,)
    how: Cancelling = "interrupted" if command.strategy == "interrupt" else "rolled_back"
    return decide_next(state, (enqueued,), lambda after: request_cancellation(after, how))


def _queued_bytes(queued: Queued | commands.StartTurn) -> int:
    """Count the bytes that a message takes while it waits."""
    schema = size_limits.bytes_of(to_json(queued.output.schema)) if queued.output else 0
    return size_limits.bytes_of(queued.content) + schema


def _cancel_turn(command: commands.CancelTurn, state: State) -> Events:
    thread = _opened(state).thread
    last = thread.last_turn
    if last and last.turn_id == command.turn_id and last.outcome == "cancelled":
        return ()
    if any(queued.turn_id == command.turn_id for queued in thread.queue):
        return (events.TurnCancelled(command.turn_id, "cancelled"),)
    if not (isinstance(state, Running) and state.turn.turn_id == command.turn_id):
        raise TurnHasEnded
    return request_cancellation(state, "cancelled")


def _retry_turn(command: commands.RetryTurn, state: State) -> Events:
    last = _opened(state).thread.last_turn
    latest = state.turn if isinstance(state, Running) else last
    if latest and latest.turn_id == command.turn_id:
        return ()
    if isinstance(state, Running):
        raise ThreadBusy
    if last is None or last.turn_id != command.retried or last.node in {None, events.END}:
        raise NotRetriable
    started = (command.turn_id, command.node or last.node or "", command.graph, command.durability, command.retried)
    return (events.TurnStarted(*started, agent_version=command.agent_version, output=last.output),)
