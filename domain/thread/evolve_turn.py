"""The fold of the turn in progress: its node, its open calls and items, and its usage."""

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
from domain.thread.state import Before, Call, Item, NodeApproval, Turn
from domain.thread.usage import add_usage
from domain.thread.window_edits import apply_edit


def evolve_turn(turn: Turn, event: Event, version: Version) -> Turn:
    """Apply an event to the turn."""
    match event:
        case NodeCompleted():
            # The node asked a person. It has gone on without the answer, so the call is merely requested.
            calls = tuple(replace(call, status="requested") if call.status == "asked" else call for call in turn.calls)
            turn = replace(turn, node=event.next, step=turn.step + 1, attempt=1, calls=calls, approval=None, items=None)
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
        case ContextAssembled():
            turn = replace(turn, prompt_tokens=event.tokens, prompt_limit=event.limit)
        case MessageAppended(finish=finish):
            turn = turn if finish == turn.finish else replace(turn, finish=finish)
        case ModelCalled():
            turn = replace(turn, usage=add_usage(turn.usage, event), everything=0)
        case MessageEdited() | StateUpdated(outside=True) if turn.before:
            turn = replace(turn, before=_update_before(turn.before, event, version))
        case FanOutStarted() | ItemCompleted() | ItemFailed():
            turn = replace(turn, items=_update_items(turn.items or (), event))
    return turn


def _update_calls(
    calls: tuple[Call, ...], event: ToolRequested | ToolStarted | ApprovalRequested, version: Version
) -> tuple[Call, ...]:
    changes: dict[str, object]
    match event:
        case ToolRequested():
            # A message requests all its calls before any has an outcome, so the index is the number of open calls.
            return (*calls, Call(version, request_of(event), place=len(calls)))
        case ToolStarted():
            changes = {"status": "started", "attempt": event.attempt}
        case ApprovalRequested():
            changes = {"status": "asked", "hash": event.hash, "because": event.because, "reason": event.reason}
    return tuple(replace(call, **changes) if call.version == event.call else call for call in calls)


def _update_before(before: Before, event: MessageEdited | StateUpdated, version: Version) -> Before:
    """Changes from outside of the turn survive its rollback."""
    match event:
        case MessageEdited():
            window, more = apply_edit(before.window, event, version)
            return replace(before, window=window, said_tokens=before.said_tokens + more)
        case StateUpdated():
            return replace(before, values=merge_patch(before.values, event.changes))


def _update_items(items: tuple[Item, ...], event: FanOutStarted | ItemCompleted | ItemFailed) -> tuple[Item, ...]:
    match event:
        case FanOutStarted():
            return tuple(Item(value) for value in event.items)
        case ItemCompleted():
            changed = replace(items[event.index], done=True, result=event.result)
        case ItemFailed():
            changed = replace(items[event.index], attempt=event.attempt + 1)
    return (*items[: event.index], changed, *items[event.index + 1 :])


def request_of(event: ToolRequested) -> ToolCall:
    """Return the call as prompts show it. `written`, which could not be parsed, is only in the log."""
    return ToolCall(event.call_id, event.tool, event.arguments, fault=event.fault, extra=event.extra)
