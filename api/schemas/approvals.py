"""Answers about approvals."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from msgspec import Struct

from domain.json import JsonObject
from domain.thread.state import Running, State


class ApprovalView(Struct, frozen=True):
    """A tool call or a node of the graph that waits for a person's approval."""

    approval_id: int
    """The id to decide by: for a call, its version."""
    hash: str
    """Identifies what is shown here. A decision repeats it, so that it cannot apply to anything else."""
    because: Literal["policy", "outcome_unknown"]
    node: str
    tool: str | None = None
    call_id: str | None = None
    arguments: JsonObject | None = None
    reason: str = ""
    """Why the tool itself asks; empty if it was declared that it needs approval."""


class Decided(Struct, frozen=True):
    """A decision was recorded."""

    thread_id: UUID
    approval_id: int
    decision: Literal["granted", "denied", "settled"]
    checkpoint: str


def waiting_approvals(state: State) -> Sequence[ApprovalView]:
    """Show what waits for a person's approval in a thread."""
    if not isinstance(state, Running) or state.turn.cancelling:
        return ()
    turn, approval = state.turn, state.turn.approval
    calls = [
        ApprovalView(
            c.version, c.hash, c.because, turn.node, c.request.name, c.request.id, c.request.arguments, c.reason
        )
        for c in turn.calls
        if c.status == "asked"
    ]
    if approval and not approval.granted:
        return [ApprovalView(approval.version, approval.hash, "policy", turn.node), *calls]
    return calls
