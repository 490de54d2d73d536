"""The fold of a turn in progress: where it is, its open calls and items, and what it has used."""

from msgspec.structs import replace

from domain.ids import Version
from domain.json import merge_patch
from domain.models.chat import ToolCall
from domain.thread.events import (
    ApprovalRequested,
    CancellationRequested,
    ContextAssembled,
    Event,
    FanOutStarted,
    ItemCompleted,
    ItemFailed,
    MessageAppended,
    MessageEdited,
    ModelCalled,
    NodeCompleted,
    NodeFailed,
    StateUpdated,
    ToolRequested,
    ToolStarted,
    TurnResumed,
)
from domain.thread.state import Call, Item, NodeApproval, Turn
from domain.thread.usage import add_usage
from domain.thread.window_edits import apply_edit


def evolve_turn(turn: Turn, event: Event, version: Version) -> Turn:
    """What an event means for where the turn is."""
    match event:
        case NodeCompleted():
            calls = tuple(_withdraw_approval(call) for call in turn.calls)
            turn = replace(
                turn,
                node=event.next,
                step=turn.step + 1,
                attempt=1,
                calls=calls,
                approval=None,
                items=None,
            )
        case ApprovalRequested(node=node) if node:
            turn = replace(turn, approval=NodeApproval(version, event.hash))
        case ToolRequested() | ToolStarted() | ApprovalRequested():
            turn = replace(turn, calls=_update_calls(turn.calls, event, version))
        case NodeFailed():
            turn = replace(turn, attempt=turn.attempt + 1)
        case TurnResumed():
            turn = replace(turn, run=turn.run + 1, graph=event.graph)
        case CancellationRequested():
            turn = replace(turn, cancelling=event.how)
        case ContextAssembled() | MessageAppended():
            turn = _asked_and_said(turn, event)
        case ModelCalled():
            turn = replace(turn, usage=add_usage(turn.usage, event), everything=0)
        case MessageEdited() if turn.before:
            before = turn.before
            window, more = apply_edit(before.window, event, version)
            turn = replace(turn, before=replace(before, window=window, said_tokens=before.said_tokens + more))
        case StateUpdated(outside=True) if turn.before:
            values = merge_patch(turn.before.values, event.changes)
            turn = replace(turn, before=replace(turn.before, values=values))
        case FanOutStarted() | ItemCompleted() | ItemFailed():
            turn = replace(turn, items=_update_items(turn.items or (), event))
    return turn


def _asked_and_said(turn: Turn, event: ContextAssembled | MessageAppended) -> Turn:
    match event:
        case ContextAssembled():
            return replace(turn, prompt_tokens=event.tokens, prompt_limit=event.limit)
        case MessageAppended(finish=finish):
            return turn if finish == turn.finish else replace(turn, finish=finish)


def _update_calls(
    calls: tuple[Call, ...], event: ToolRequested | ToolStarted | ApprovalRequested, version: Version
) -> tuple[Call, ...]:
    match event:
        case ToolRequested():
            # Calls are requested while none of their message has an outcome: those before it are all open.
            return (*calls, Call(version, request_of(event), place=len(calls)))
        case ToolStarted():
            return tuple(_start_call(call, event) for call in calls)
        case ApprovalRequested():
            return tuple(
                replace(call, status="asked", hash=event.hash, because=event.because)
                if call.version == event.call
                else call
                for call in calls
            )


def _update_items(items: tuple[Item, ...], event: FanOutStarted | ItemCompleted | ItemFailed) -> tuple[Item, ...]:
    match event:
        case FanOutStarted():
            return tuple(Item(value) for value in event.items)
        case ItemCompleted():
            done = replace(items[event.index], done=True, result=event.result)
            return (*items[: event.index], done, *items[event.index + 1 :])
        case ItemFailed():
            failed = replace(items[event.index], attempt=event.attempt + 1)
            return (*items[: event.index], failed, *items[event.index + 1 :])


def request_of(event: ToolRequested) -> ToolCall:
    """Write a call as prompts show it: what could not be read is only in the log."""
    return ToolCall(event.call_id, event.tool, event.arguments, fault=event.fault, extra=event.extra)


def _withdraw_approval(call: Call) -> Call:
    """Who asked was the node; if it goes on without waiting for the answer, the call is merely open."""
    return replace(call, status="requested") if call.status == "asked" else call


def _start_call(call: Call, event: ToolStarted) -> Call:
    return replace(call, status="started", attempt=event.attempt) if call.version == event.call else call
