"""The fold: a state and the next event give the next state. It is pure, and accepts all events that `decide` returns.

The time of an event only matters for the usage in windows of time. Events that are not recorded yet have no time; the
states after them are temporary and keep the windows unchanged.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypeAlias, assert_never, get_args

import msgspec
from msgspec.structs import asdict, replace

from domain.errors import CorruptLog
from domain.ids import Version
from domain.json import JsonObject, merge_patch
from domain.models.chat import MESSAGE_OVERHEAD
from domain.thread import events
from domain.thread.events import Event, text_of
from domain.thread.evolve_turn import evolve_turn, request_of, start_turn
from domain.thread.repeated_calls import digest_of, repeated
from domain.thread.state import Budget, Ended, Idle, Message, Queued, Running, State, Summary, Thread, Unopened
from domain.thread.title import title_of
from domain.thread.usage import add_usage, add_window_usage
from domain.thread.window_edits import apply_edit, replace_call

Outcome: TypeAlias = events.ToolSucceeded | events.ToolFailed | events.ToolOutcomeUnknown | events.ApprovalDenied
"""Outcomes of a tool call. Each has a text for the model."""


_OUTCOMES: dict[type[Event], Literal["", "failed", "unknown", "denied"]] = {
    events.ToolSucceeded: "",
    events.ToolFailed: "failed",
    events.ToolOutcomeUnknown: "unknown",
    events.ApprovalDenied: "denied",
}


def evolve(state: State, event: Event, at: datetime | None = None) -> State:
    """Apply one event, recorded `at` an instant (None: not recorded). Raise `CorruptLog` if it cannot follow."""
    version = Version(state.version + 1)
    match state:
        case Running():
            return _evolve_running(state, event, version, at)
        case Idle():
            return _evolve_idle(state, event, version)
        case Unopened():
            if isinstance(event, events.ThreadOpened):
                return Idle(version, _open_thread(event, version))
            raise _unexpected(state, event)
        case _:
            assert_never(state)


def _open_thread(event: events.ThreadOpened, version: Version) -> Thread:
    budget = Budget(version, event.limits) if event.limits else None
    opened = (event.graph, event.values, digest(event.values))
    return Thread(*opened, budget=budget, subject=event.subject, opened_limits=event.limits)


def fold(state: State, following: Iterable[Event], at: datetime | None = None) -> State:
    """Apply events in their order. `at` is the time at which they were recorded together."""
    for event in following:
        state = evolve(state, event, at)
    return state


def digest(values: JsonObject) -> str:
    """Return a digest of an object's JSON: 16 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:16]


def _evolve_idle(state: Idle, event: Event, version: Version) -> State:
    thread = state.thread
    match event:
        case events.TurnStarted():
            waiting = tuple(queued for queued in thread.queue if queued.turn_id != event.turn_id)
            turn = start_turn(thread, event, version)
            return Running(version, replace(thread, turns=thread.turns + 1, queue=waiting), turn)
        case events.StateUpdated() | events.MessageEdited() | events.BudgetSet():
            return Idle(version, _evolve_thread(thread, event, version))
        case events.ThreadForked() | events.BudgetThresholdReached():
            return Idle(version, thread)
        case _:
            raise _unexpected(state, event)


def _evolve_running(state: Running, event: Event, version: Version, at: datetime | None) -> State:
    kind = type(event)
    if kind in _TURN_AND_THREAD and (after := _evolve_turn_and_thread(state, event, version)):
        return after
    thread, turn = state.thread, state.turn
    if kind in _OF_THREAD:
        thread = _evolve_thread(thread, event, version, at)
    turn = evolve_turn(turn, event, version)
    if isinstance(event, events.ContextAssembled) and event.of:  # older events lack `fixed`
        turn = replace(turn, everything=event.fixed + thread.said_tokens)
    return Running(version, thread, turn)


def _evolve_turn_and_thread(state: Running, event: Event, version: Version) -> State | None:
    """Apply an event that changes the turn and the thread together; return None if it changes neither."""
    node_approval = state.turn.approval
    match event:
        case events.ToolSucceeded() | events.ToolFailed() | events.ToolOutcomeUnknown():
            return _close_call(state, event, event.call, version)
        case events.ApprovalDenied() if node_approval is None or node_approval.version != event.approval:
            return _close_call(state, event, event.approval, version)
        case events.TurnCompleted() | events.TurnFailed() | events.TurnCancelled() | events.TurnRolledBack():
            return _end_turn(state, event, version)
        case events.ApprovalGranted():
            return _grant_approval(state, event, version)
        case events.ThreadForked():  # messages in the parent's queue stay with the parent
            return Running(version, replace(state.thread, queue=()), state.turn)
        case events.ThreadOpened() | events.TurnStarted():
            raise _unexpected(state, event)
        case _:
            return None


def _evolve_thread(thread: Thread, event: Event, version: Version, at: datetime | None = None) -> Thread:
    """Apply an event to the thread."""
    match event:
        case events.MessageAppended():
            thread = _append_message(thread, event, version)
        case events.MessageEdited():
            window, more = apply_edit(thread.window, event, version)
            thread = replace(thread, window=window, said_tokens=thread.said_tokens + more)
        case events.ToolRequested():
            last = thread.window[-1]
            asking = replace(last, tool_calls=(*last.tool_calls, request_of(event)))
            thread = replace(thread, window=(*thread.window[:-1], asking))
        case events.TurnEnqueued():
            fields = (event.content, event.tokens, event.node, event.graph, event.durability, event.strategy)
            queued = Queued(version, event.turn_id, *fields, event.agent_version, event.output)
            thread = replace(thread, queue=(*thread.queue, queued))
        case events.StateUpdated():
            thread = replace(thread, values=merge_patch(thread.values, event.changes))
        case events.BudgetSet():
            thread = replace(thread, budget=Budget(version, event.limits) if event.limits else None)
        case events.ContextAssembled():
            thread = replace(thread, prompt=event)
        case events.ModelCalled():
            windows = thread.windows if at is None else add_window_usage(thread.windows, event, at)
            thread = replace(thread, usage=add_usage(thread.usage, event), windows=windows)
        case events.HistoryCompacted():
            window = tuple(message for message in thread.window if message.version > event.through)
            summary = Summary(Version(event.through), event.summary, event.tokens, version)
            thread = replace(thread, window=window, summary=summary)
    return thread


def _append_message(thread: Thread, event: events.MessageAppended, version: Version) -> Thread:
    message = Message(
        version, event.role, event.content, event.tokens, partial=event.partial, extra=event.extra, origin=event.origin
    )
    title = thread.title or (title_of(event.content or "") if event.role == "user" else "")
    said = thread.said_tokens + event.tokens + MESSAGE_OVERHEAD
    return replace(
        thread, window=(*thread.window, message), messages=thread.messages + 1, said_tokens=said, title=title
    )


_OF_THREAD = frozenset(get_args(events.NodeEvent | events.MessageEdited | events.TurnEnqueued | events.BudgetSet)) - {
    events.BudgetThresholdReached,
    events.ModelAnswered,
}
"""Events that change the thread, and possibly the turn."""

_TURN_AND_THREAD = frozenset(get_args(Outcome | events.TurnEnd)) | frozenset(
    (events.ApprovalGranted, events.ThreadForked, events.ThreadOpened, events.TurnStarted)
)
"""The cases of `_evolve_turn_and_thread`. Most events are none of them."""


def _end_turn(state: Running, event: events.TurnEnd, version: Version) -> State:
    """End the running turn, or remove a queued one that never started."""
    thread, turn = state.thread, state.turn
    if event.turn_id != turn.turn_id:
        waiting = tuple(queued for queued in thread.queue if queued.turn_id != event.turn_id)
        if len(waiting) == len(thread.queue):
            raise _unexpected(state, event)
        return Running(version, replace(thread, queue=waiting), turn)
    match event:
        case events.TurnCompleted():
            ended = Ended(event.turn_id, "completed", event.reason)
        case events.TurnFailed():
            ended = Ended(event.turn_id, "failed", event.reason, event.detail, turn.node, turn.output)
        case events.TurnCancelled():
            ended = Ended(event.turn_id, "cancelled", event.how, None, turn.node, turn.output)
        case events.TurnRolledBack():
            ended = Ended(event.turn_id, "rolled_back")
            thread = replace(thread, rolled_back=thread.rolled_back + 1)
            if turn.before:
                thread = replace(thread, **asdict(turn.before))
    if thread.prompt:  # only later prompts of the same turn reuse these
        thread = replace(thread, prompt=replace(thread.prompt, recalled=(), texts=(), values=()))
    return Idle(version, replace(thread, last_turn=ended))


def _close_call(state: Running, event: Outcome, version_of_call: int, version: Version) -> Running:
    """Replace an open call by the message with its outcome."""
    call = next((call for call in state.turn.calls if call.version == version_of_call), None)
    if call is None:
        raise _unexpected(state, event)
    text = text_of(event) or ""
    told = Message(
        *(version, "tool", text, event.tokens),
        call_id=call.request.id,
        name=call.request.name,
        answers=call.place,
        outcome=_OUTCOMES[type(event)],
    )
    open_calls = tuple(other for other in state.turn.calls if other is not call)
    questions = tuple(question for question in state.turn.questions if question.call != call.version)
    said = state.thread.said_tokens + event.tokens + MESSAGE_OVERHEAD
    thread = replace(state.thread, window=(*state.thread.window, told), said_tokens=said)
    repeats = state.turn.repeats
    if not isinstance(event, events.ApprovalDenied):  # a person may deny the same call any number of times
        repeats = repeated(repeats, digest_of(call.request, text), state.turn.step)
    retries = state.turn.tool_retries
    if isinstance(event, events.ToolFailed) and event.retry:
        counts = dict(retries)
        retries = tuple({**counts, call.request.name: counts.get(call.request.name, 0) + 1}.items())
    turn = replace(state.turn, calls=open_calls, repeats=repeats, questions=questions, tool_retries=retries)
    return Running(version, thread, turn)


def _grant_approval(state: Running, event: events.ApprovalGranted, version: Version) -> Running:
    """Approve a call or the node. If the person changed the arguments, the conversation shows the new ones."""
    thread, turn = state.thread, state.turn
    if turn.approval and turn.approval.version == event.approval:
        return Running(version, thread, replace(turn, approval=replace(turn.approval, granted=True)))
    call = next((call for call in turn.calls if call.version == event.approval), None)
    if call is None:
        raise _unexpected(state, event)
    request = call.request if event.arguments is None else replace(call.request, arguments=event.arguments)
    granted = replace(call, status="granted", request=request, approved=call.approved or bool(call.reason))
    calls = tuple(granted if other is call else other for other in turn.calls)
    if request is not call.request:
        window, more = replace_call(thread.window, call.place, request)
        thread = replace(thread, window=window, said_tokens=thread.said_tokens + more)
    return Running(version, thread, replace(turn, calls=calls))


def _unexpected(state: State, event: Event) -> CorruptLog:
    kind = type(state).__name__.lower()
    return CorruptLog(f"A {type(event).__name__} cannot follow version {state.version} of a {kind} thread.")
