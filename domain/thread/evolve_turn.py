"""The fold of the turn in progress: its node, its open calls, and its usage."""

from typing import TypeAlias

from msgspec.structs import replace

from domain.ids import Version
from domain.json import merge_patch
from domain.models.chat import ToolCall
from domain.thread import events
from domain.thread.events import Event
from domain.thread.evolve_node import OfNode, evolve_node
from domain.thread.state import Before, Call, NodeApproval, Thread, Turn
from domain.thread.usage import add_usage
from domain.thread.window_edits import apply_edit

_OfCall: TypeAlias = events.ToolRequested | events.ToolStarted | events.ApprovalRequested


def start_turn(thread: Thread, event: events.TurnStarted, version: Version) -> Turn:
    """Begin a turn of an idle thread."""
    before = Before(thread.values, thread.window, thread.summary, thread.said_tokens, thread.prompt)
    return Turn(
        *(event.turn_id, event.graph, version, event.node),
        durability=event.durability,
        before=before,
        agent_version=event.agent_version,
        output=event.output,
    )


def evolve_turn(turn: Turn, event: Event, version: Version) -> Turn:
    """Apply an event to the turn."""
    match event:
        case events.NodeCompleted():
            # The node asked a person. It has gone on without the answer, so the call is merely requested.
            calls = turn.calls and tuple(
                replace(call, status="requested") if call.status == "asked" else call for call in turn.calls
            )
            questions = turn.questions and tuple(question for question in turn.questions if question.call)
            turn = replace(
                turn,
                node=event.next,
                step=turn.step + 1,
                attempt=1,
                calls=calls,
                approval=None,
                items=None,
                more_items=(),
                answers=(),
                questions=questions,
            )
        case events.ApprovalRequested(node=node) if node:
            turn = replace(turn, approval=NodeApproval(version, event.hash))
        case events.ToolRequested() | events.ToolStarted() | events.ApprovalRequested():
            turn = replace(turn, calls=_update_calls(turn.calls, event, version))
        case events.NodeFailed():
            turn = replace(turn, attempt=turn.attempt + 1, answers=())  # the next attempt asks models again
        case events.TurnResumed():
            turn = replace(turn, run=turn.run + 1, graph=event.graph)
        case events.CancellationRequested():
            turn = replace(turn, cancelling=event.how)
        case events.ContextAssembled():
            turn = replace(turn, prompt_tokens=event.tokens, prompt_limit=event.limit)
        case events.MessageAppended(finish=finish):
            turn = turn if finish == turn.finish else replace(turn, finish=finish)
        case events.ModelCalled():
            turn = replace(turn, usage=add_usage(turn.usage, event), everything=0)
        case events.MessageEdited() | events.StateUpdated(outside=True) if turn.before:
            turn = replace(turn, before=_update_before(turn.before, event, version))
        case _ if isinstance(event, OfNode):
            turn = evolve_node(turn, event, version)
    return turn


def _update_calls(calls: tuple[Call, ...], event: _OfCall, version: Version) -> tuple[Call, ...]:
    changes: dict[str, object]
    match event:
        case events.ToolRequested():
            # A message requests all its calls before any has an outcome, so the index is the number of open calls.
            return (*calls, Call(version, request_of(event), place=len(calls)))
        case events.ToolStarted():
            changes = {"status": "started", "attempt": event.attempt}
        case events.ApprovalRequested():
            changes = {"status": "asked", "hash": event.hash, "because": event.because, "reason": event.reason}
    return tuple(replace(call, **changes) if call.version == event.call else call for call in calls)


def _update_before(before: Before, event: events.MessageEdited | events.StateUpdated, version: Version) -> Before:
    """Changes from outside of the turn survive its rollback."""
    match event:
        case events.MessageEdited():
            window, more = apply_edit(before.window, event, version)
            return replace(before, window=window, said_tokens=before.said_tokens + more)
        case events.StateUpdated():
            return replace(before, values=merge_patch(before.values, event.changes))


def request_of(event: events.ToolRequested) -> ToolCall:
    """Return the call as prompts show it. `written`, which could not be parsed, is only in the log."""
    return ToolCall(event.call_id, event.tool, event.arguments, fault=event.fault, extra=event.extra)
