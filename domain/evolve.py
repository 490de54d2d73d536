"""The fold: a state and the next event give the next state. Pure, total over everything that `decide` can produce."""

import hashlib
from collections.abc import Iterable
from functools import reduce
from typing import assert_never

import msgspec
from msgspec.structs import replace

from domain.chat import ToolCall
from domain.errors import CorruptLog
from domain.events import (
    ContextAssembled,
    Event,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
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
from domain.ids import Version
from domain.json import JsonObject, merge_patch
from domain.state import Call, Ended, Idle, Message, Running, State, Summary, Thread, Turn, Unopened


def evolve(state: State, event: Event) -> State:
    """Apply one event. Raise `CorruptLog` if it cannot follow in this state."""
    version = Version(state.version + 1)
    match state:
        case Running():
            return _in_turn(state, event, version)
        case Idle():
            return _between_turns(state, event, version)
        case Unopened():
            if isinstance(event, ThreadOpened):
                return Idle(version, Thread(event.graph, event.values, digest(event.values)))
            raise _impossible(state, event)
        case _:
            assert_never(state)


def fold(state: State, events: Iterable[Event]) -> State:
    """Apply events in their order."""
    return reduce(evolve, events, state)


def digest(values: JsonObject) -> str:
    """Name an object by its JSON: 16 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:16]


def _between_turns(state: Idle, event: Event, version: Version) -> State:
    thread = state.thread
    match event:
        case TurnStarted():
            turn = Turn(event.turn_id, event.graph, version, event.node)
            return Running(version, replace(thread, turns=thread.turns + 1), turn)
        case StateUpdated():
            return Idle(version, replace(thread, values=merge_patch(thread.values, event.changes)))
        case _:
            raise _impossible(state, event)


def _in_turn(state: Running, event: Event, version: Version) -> State:
    turn = state.turn
    match event:
        case NodeCompleted():
            turn = replace(turn, node=event.next, step=turn.step + 1, attempt=1)
        case NodeFailed():
            turn = replace(turn, attempt=turn.attempt + 1)
        case ContextAssembled():
            turn = replace(turn, prompt_tokens=event.tokens, prompt_limit=event.limit)
        case ToolStarted():
            turn = replace(turn, calls=tuple(_started(call, event) for call in turn.calls))
        case ToolRequested():
            turn = replace(turn, calls=(*turn.calls, Call(version, _request(event))))
        case ToolSucceeded() | ToolFailed() | ToolOutcomeUnknown():
            return _outcome(state, event, version)
        case TurnCompleted():
            return Idle(version, replace(state.thread, last_turn=Ended(event.turn_id, "completed")))
        case TurnFailed():
            ended = Ended(event.turn_id, "failed", event.reason, event.detail)
            return Idle(version, replace(state.thread, last_turn=ended))
    return Running(version, _evolve_thread(state, event, version), turn)


def _evolve_thread(state: Running, event: Event, version: Version) -> Thread:
    """What the thread learns during a turn."""
    thread = state.thread
    match event:
        case MessageAppended():
            message = Message(version, event.role, event.content, event.tokens)
            return replace(thread, window=(*thread.window, message))
        case ToolRequested():
            last = thread.window[-1]
            asking = replace(last, tool_calls=(*last.tool_calls, _request(event)))
            return replace(thread, window=(*thread.window[:-1], asking))
        case StateUpdated():
            return replace(thread, values=merge_patch(thread.values, event.changes))
        case ModelCalled():
            return replace(
                thread,
                prompt_tokens=thread.prompt_tokens + event.prompt_tokens,
                completion_tokens=thread.completion_tokens + event.completion_tokens,
            )
        case HistoryCompacted():
            window = tuple(message for message in thread.window if message.version > event.through)
            summary = Summary(Version(event.through), event.summary, event.tokens)
            return replace(thread, window=window, summary=summary)
        case NodeCompleted() | NodeFailed() | ContextAssembled() | ToolStarted():
            return thread
        case _:
            raise _impossible(state, event)


def _outcome(state: Running, event: ToolSucceeded | ToolFailed | ToolOutcomeUnknown, version: Version) -> Running:
    """Turn a call into the message that tells the model of its outcome."""
    call = next((call for call in state.turn.calls if call.version == event.call), None)
    if call is None:
        raise _impossible(state, event)
    content = event.content if isinstance(event, ToolSucceeded) else event.error
    told = Message(version, "tool", content, event.tokens, call_id=call.request.id, name=call.request.name)
    open_calls = tuple(other for other in state.turn.calls if other.version != event.call)
    thread = replace(state.thread, window=(*state.thread.window, told))
    return Running(version, thread, replace(state.turn, calls=open_calls))


def _started(call: Call, event: ToolStarted) -> Call:
    return replace(call, status="started") if call.version == event.call else call


def _request(event: ToolRequested) -> ToolCall:
    return ToolCall(event.call_id, event.tool, event.arguments)


def _impossible(state: State, event: Event) -> CorruptLog:
    return CorruptLog(f"A {type(event).__name__} cannot follow version {state.version} of a {_name(state)} thread.")


def _name(state: State) -> str:
    return type(state).__name__.lower()
