"""What a command means for a thread: the events that it causes, or the reason why not.

A command whose effect is there already decides nothing, so that doing it twice is harmless.
"""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from domain.codec import to_json
from domain.commands import (
    Command,
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
from domain.errors import InvalidInput, ThreadAlreadyOpen, ThreadBusy, UnopenedThread
from domain.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeFact,
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
from domain.evolve import digest, fold
from domain.graph import END
from domain.ids import TurnId
from domain.json import JsonObject, check_json, check_text, merge_patch
from domain.state import Idle, Running, State, Unopened

Events = tuple[Event, ...]
Report = CompleteNode | FailAttempt | StartCalls | EndCall | CompactHistory | FailTurn

NOT_RUN = "This call was not run: the turn ended before it could."
NOT_KNOWN = "It is not known whether this call had an effect: the turn ended while it ran."
MAX_VALUES = 256 * 1024

TOLD_TOKENS = 20
"""What the two texts above count for, a little generously."""


def decide(command: Command, state: State) -> Events:
    """Return the events that `command` causes in `state`, none if it changes nothing.

    Raises:
        Conflict: the thread is not in a state for this.
        InvalidInput: a part of the command cannot be taken.
    """
    match command:
        case OpenThread():
            return _open(command, state)
        case UpdateValues():
            return _update(command, state)
        case StartTurn():
            return _start_turn(command, state)
        case CompleteNode() | FailAttempt() | StartCalls() | EndCall() | CompactHistory() | FailTurn():
            if isinstance(state, Running) and state.turn.turn_id == command.turn_id:
                return _report(command, state)
            return ()
        case _:
            assert_never(command)


def decide_all(commands: Iterable[Command], state: State) -> Events:
    """Decide commands one after the other, each in the state that the ones before it lead to."""
    events: Events = ()
    for command in commands:
        new = decide(command, state)
        state = fold(state, new)
        events += new
    return events


def _open(command: OpenThread, state: State) -> Events:
    check_json(command.values, "values")
    _check_size(command.values, "values")
    if isinstance(state, Unopened):
        return (ThreadOpened(command.graph, command.values),)
    if (command.graph, digest(command.values)) == (state.thread.graph, state.thread.opened_with):
        return ()
    raise ThreadAlreadyOpen


def _update(command: UpdateValues, state: State) -> Events:
    check_json(command.changes, "values")
    if isinstance(state, Unopened):
        raise UnopenedThread
    merged = merge_patch(state.thread.values, command.changes)
    _check_size(merged, "values")
    # Compared as JSON: to Python, 1 equals True and 1.0.
    changed = to_json(merged) != to_json(state.thread.values)
    return (StateUpdated(command.changes),) if changed else ()


def _start_turn(command: StartTurn, state: State) -> Events:
    check_text(command.content, "user_input")
    match state:
        case Unopened():
            raise UnopenedThread
        case Running(turn=turn):
            if turn.turn_id == command.turn_id:
                return ()
            raise ThreadBusy
        case Idle(thread=thread):
            if thread.last_turn is not None and thread.last_turn.turn_id == command.turn_id:
                return ()
            return (
                TurnStarted(command.turn_id, command.node, command.graph),
                MessageAppended("user", command.content, command.tokens),
            )
        case _:
            assert_never(state)


def _report(command: Report, state: Running) -> Events:
    _check_storable(command)
    match command:
        case CompleteNode():
            return _complete(command, state)
        case FailAttempt():
            return _fail_attempt(command, state)
        case StartCalls(calls=calls):
            waiting = (call.version for call in state.turn.calls if call.status == "requested")
            return tuple(ToolStarted(version) for version in waiting if version in calls)
        case EndCall():
            return _end_call(command, state)
        case CompactHistory(fact=fact):
            stale = not any(message.version <= fact.through for message in state.thread.window)
            check_facts((fact,), state)
            return () if stale else (fact,)
        case FailTurn(turn_id=turn_id, reason=reason, detail=detail):
            return (*_abandon_calls(state), TurnFailed(turn_id, reason, detail))
        case _:
            assert_never(command)


def _check_storable(command: Report) -> None:
    """Refuse texts and numbers that the log could not hold, wherever in a report they are."""
    for name in command.__struct_fields__:
        if name != "facts":  # see check_facts
            check_json(msgspec.to_builtins(getattr(command, name)), name)


def _complete(command: CompleteNode, state: Running) -> Events:
    turn = state.turn
    if turn.step != command.step:
        return ()
    check_facts(command.facts, state)
    completed = NodeCompleted(turn.node, command.next, turn.attempt, command.duration_ms)
    if command.next != END:
        return (*command.facts, completed)
    after = fold(state, command.facts)
    abandoned = _abandon_calls(after) if isinstance(after, Running) else ()
    return (*command.facts, *abandoned, completed, TurnCompleted(turn.turn_id))


def _fail_attempt(command: FailAttempt, state: Running) -> Events:
    turn = state.turn
    if (turn.step, turn.attempt) != (command.step, command.attempt):
        return ()
    failed = NodeFailed(turn.node, turn.attempt, command.error, command.duration_ms, command.retry_in_ms)
    if command.retry_in_ms is not None:
        return (failed,)
    detail = f"{turn.node}: {command.error}"
    return (failed, *_abandon_calls(state), TurnFailed(turn.turn_id, "node_failed", detail))


def _end_call(command: EndCall, state: Running) -> Events:
    started = any(call.version == command.call and call.status == "started" for call in state.turn.calls)
    if not started:
        return ()
    call, content, tokens = command.call, command.content, command.tokens
    match command.outcome:
        case "succeeded":
            return (ToolSucceeded(call, content, tokens, command.duration_ms),)
        case "failed":
            return (ToolFailed(call, content, tokens, command.duration_ms),)
        case "unknown":
            return (ToolOutcomeUnknown(call, content, tokens),)
        case _:
            assert_never(command.outcome)


def _abandon_calls(state: Running) -> Events:
    """Give every open call an outcome, so that no model is ever shown a call without one."""
    return tuple(
        ToolFailed(call.version, NOT_RUN, TOLD_TOKENS, 0)
        if call.status == "requested"
        else ToolOutcomeUnknown(call.version, NOT_KNOWN, TOLD_TOKENS)
        for call in state.turn.calls
    )


def check_facts(facts: tuple[NodeFact, ...], state: Running) -> None:
    """Refuse what would leave the thread in a state that no prompt can be made of.

    Raises:
        InvalidInput: naming the fact, as `facts.0`.
    """
    check_json(msgspec.to_builtins(facts), "facts")
    speaker = state.thread.window[-1].role if state.thread.window else None
    asking, values = bool(state.turn.calls), state.thread.values
    for index, fact in enumerate(facts):
        field = f"facts.{index}"
        match fact:
            case MessageAppended():
                if fact.role != "assistant" or asking:
                    raise InvalidInput(field, "a node speaks as the assistant, while no call is open")
                speaker = fact.role
            case ToolRequested():
                if speaker != "assistant":
                    raise InvalidInput(field, "a tool is requested right after the assistant's message")
                check_json(fact.arguments, f"{field}.arguments")
                asking = True
            case StateUpdated():
                check_json(fact.changes, f"{field}.changes")
                values = merge_patch(values, fact.changes)
                _check_size(values, f"{field}.changes")
            case HistoryCompacted():
                kept = next((m for m in state.thread.window if m.version > fact.through), None)
                if asking or fact.through > state.version or (kept is not None and kept.role == "tool"):
                    raise InvalidInput(field, "history is compacted between calls, up to a past version")
                speaker = None
            case ContextAssembled() | ModelCalled():
                continue
            case _:
                raise InvalidInput(field, f"a node cannot say that there was a {type(fact).__name__}")


def _check_size(values: JsonObject, field: str) -> None:
    """Keep the folded state small: it is in memory, in snapshots and in answers, again and again."""
    size = len(to_json(values))
    if size > MAX_VALUES:
        raise InvalidInput(field, f"a thread's values may take {MAX_VALUES} characters as JSON, not {size}")


def turn_of(state: State) -> TurnId | None:
    """Name the turn in progress, or else the last one."""
    match state:
        case Running(turn=turn):
            return TurnId(turn.turn_id)
        case Idle(thread=thread) if thread.last_turn is not None:
            return TurnId(thread.last_turn.turn_id)
        case _:
            return None
