"""Decisions about the runtime's reports on the turn in progress."""

from typing import assert_never

from domain.errors import InvalidInput
from domain.json import check_fields
from domain.thread import commands, events
from domain.thread.approvals import hash_of_call, hash_of_node
from domain.thread.evolve import fold
from domain.thread.node_events import check_node_events
from domain.thread.questions import decide_question
from domain.thread.size_limits import (
    MAX_FAN_OUT_CHARACTERS,
    check_json_size,
    cut_to_fit,
    item_values_limit,
    result_limit,
)
from domain.thread.state import Running, State
from domain.thread.turn_end import Events, close_open_calls, decide_next, end_cancelled_turn, start_queued_turns

TRUNCATION_MARK = "\n[cut: this was too long to be stored]"

MAX_SHOWN_NAME = 100
"""Characters of a tool's name in an error."""

MAX_SHOWN_CALLS = 10
"""Calls that are named in an error."""

MAX_FAN_OUT_ITEMS = 1_000
"""Maximum number of items of all fan-outs of a node."""


_NOT_WHILE_CANCELLING = (
    commands.StartCalls,
    commands.RequestApproval,
    commands.AskQuestion,
    commands.StartFanOut,
    commands.ResumeTurn,
)
"""Reports that begin something. They end a turn that is being cancelled."""


def decide_runtime_command(command: commands.RuntimeCommand, state: State) -> Events:
    """Decide a report. Reports of another turn or of an earlier run are ignored: `run` is a fencing token."""
    if not isinstance(state, Running) or (state.turn.turn_id, state.turn.run) != (command.turn_id, command.run):
        return ()
    check_fields(command, without="facts")  # `check_node_events` checks the facts
    if state.turn.cancelling and isinstance(command, _NOT_WHILE_CANCELLING):
        return end_cancelled_turn(state)
    match command:
        case commands.ResumeTurn():
            return (events.TurnResumed(command.worker, command.graph),)
        case commands.StopTurn():
            return _stop_turn(command, state)
        case commands.CompleteNode():
            return _complete_node(command, state)
        case commands.FailAttempt():
            return _fail_attempt(command, state)
        case commands.StartCalls() | commands.EndCall() | commands.RequestApproval():
            return _decide_calls(command, state)
        case commands.RecordAnswer() | commands.AskQuestion() | commands.CompactHistory():
            return _decide_within_node(command, state)
        case commands.StartFanOut() | commands.AdvanceItem() | commands.CompleteItem() | commands.FailItem():
            return _decide_items(command, state)
        case commands.RecordModelFailure() | commands.RecordModelCalls():
            return _record_calls(command)
        case commands.FailTurn():
            return _fail_turn(command, state)
        case _:
            assert_never(command)


def _decide_within_node(
    command: commands.RecordAnswer | commands.AskQuestion | commands.CompactHistory, state: Running
) -> Events:
    if not isinstance(command, commands.CompactHistory):
        return decide_question(command, state)
    check_node_events((command.fact,), state)
    stale = not any(message.version <= command.fact.through for message in state.thread.window)
    return () if stale else (command.fact,)


def _stop_turn(command: commands.StopTurn, state: Running) -> Events:
    said = None
    if command.partial:
        content = cut_to_fit(command.partial, TRUNCATION_MARK)
        said = events.MessageAppended("assistant", content, command.tokens, partial=True)
    return decide_next(state, command.calls, lambda after: end_cancelled_turn(after, said))


def _fail_turn(command: commands.FailTurn, state: Running) -> Events:
    if state.turn.cancelling:
        return decide_next(state, command.calls, end_cancelled_turn)
    failed = events.TurnFailed(command.turn_id, command.reason, command.detail)
    return start_queued_turns(state, (*command.calls, *close_open_calls(state), failed))


def _record_calls(command: commands.RecordModelFailure | commands.RecordModelCalls) -> Events:
    return (*command.calls, command.fact) if isinstance(command, commands.RecordModelFailure) else command.calls


def _decide_calls(command: commands.StartCalls | commands.EndCall | commands.RequestApproval, state: Running) -> Events:
    turn = state.turn
    match command:
        case commands.StartCalls(calls=calls):
            return tuple(
                events.ToolStarted(call.version, call.attempt + 1)
                for call in turn.calls
                if (call.version, call.attempt + 1) in calls and call.status != "asked"
            )
        case commands.EndCall():
            return _end_call(command, state)
        case commands.RequestApproval(calls=(), because=because):
            if turn.approval:
                return ()
            shown = hash_of_node(str(turn.turn_id), turn.node, turn.step)
            return (events.ApprovalRequested(shown, 0, turn.node, because),)
        case commands.RequestApproval(calls=calls, because=because, reason=reason):
            return tuple(
                events.ApprovalRequested(
                    hash_of_call(c.request.name, c.request.arguments, reason), c.version, "", because, reason
                )
                for c in turn.calls
                if c.version in calls and c.status != "asked"
            )


def _decide_items(
    command: commands.StartFanOut | commands.AdvanceItem | commands.CompleteItem | commands.FailItem, state: Running
) -> Events:
    items, fan_out = state.turn.items_of(command.fan_out), command.fan_out
    if state.turn.step != command.step:
        return ()
    if isinstance(command, commands.StartFanOut):
        values = [*(item.value for item in state.turn.all_items), *command.items]
        if len(values) > MAX_FAN_OUT_ITEMS:
            raise InvalidInput("items", f"a node may have at most {MAX_FAN_OUT_ITEMS} items, not {len(values)}")
        check_json_size(values, "items", MAX_FAN_OUT_CHARACTERS)
        return (events.FanOutStarted(list(command.items), fan_out, command.each),) if items is None else ()
    if items is None or items[command.index].done:
        return ()
    if isinstance(command, commands.FailItem):
        if items[command.index].attempt != command.attempt:
            return ()
        failed = events.ItemFailed(command.index, command.attempt, command.error, command.retry_in_ms, fan_out)
        return (*command.calls, failed)
    if isinstance(command, commands.AdvanceItem):
        if items[command.index].step != command.done:
            return ()
        check_json_size(command.values, "values", item_values_limit(len(state.turn.all_items)))
        place = (command.index, command.node, command.next, command.values, command.duration_ms, fan_out)
        return (*command.calls, events.ItemAdvanced(*place))
    check_json_size(command.result, "result", result_limit(len(state.turn.all_items)))
    return (*command.calls, events.ItemCompleted(command.index, command.result, command.duration_ms, fan_out))


def _complete_node(command: commands.CompleteNode, state: Running) -> Events:
    turn = state.turn
    if turn.step != command.step:
        return ()
    check_node_events(command.facts, state)
    completed = events.NodeCompleted(turn.node, command.next, turn.attempt, command.duration_ms)
    if turn.cancelling:
        return decide_next(state, (*command.facts, completed), end_cancelled_turn)
    if command.next != events.END:
        return (*command.facts, completed)
    after = fold(state, command.facts)
    if not isinstance(after, Running):
        return (*command.facts, completed)
    end: events.TurnEnd = events.TurnCompleted(turn.turn_id, after.turn.finish or None)
    if after.turn.calls:
        end = events.TurnFailed(turn.turn_id, "calls_not_run", _calls_not_run(after))
    return start_queued_turns(state, (*command.facts, *close_open_calls(after), completed, end))


def _calls_not_run(state: Running) -> str:
    names = ", ".join(call.request.name[:MAX_SHOWN_NAME] for call in state.turn.calls[:MAX_SHOWN_CALLS])
    return (
        f"{state.turn.node} led to END, but the model had requested calls that were not run: {names}. Let the graph "
        "lead to a node that awaits run_tools() while state.turn.calls has any, or offer the model no tools there."
    )


def _fail_attempt(command: commands.FailAttempt, state: Running) -> Events:
    turn = state.turn
    if (turn.step, turn.attempt) != (command.step, command.attempt):
        return ()
    if turn.cancelling:
        failed = events.NodeFailed(turn.node, turn.attempt, command.error, command.duration_ms)
        return decide_next(state, (*command.calls, failed), end_cancelled_turn)
    failed = events.NodeFailed(turn.node, turn.attempt, command.error, command.duration_ms, command.retry_in_ms)
    if command.retry_in_ms is not None:
        return (*command.calls, failed)
    detail = f"{turn.node}: {command.error}"
    end = events.TurnFailed(turn.turn_id, command.reason, detail)
    return start_queued_turns(state, (*command.calls, failed, *close_open_calls(state), end))


def _end_call(command: commands.EndCall, state: Running) -> Events:
    ready = {"requested", "granted"} if command.not_run else {"started"}
    if not any(call.version == command.call and call.status in ready for call in state.turn.calls):
        return ()
    call, content, tokens = command.call, cut_to_fit(command.content, TRUNCATION_MARK), command.tokens
    if command.outcome == "unknown":
        return (events.ToolOutcomeUnknown(call, content, tokens),)
    if command.outcome == "succeeded":
        return (events.ToolSucceeded(call, content, tokens, command.duration_ms),)
    return (events.ToolFailed(call, content, tokens, command.duration_ms, command.retry),)
