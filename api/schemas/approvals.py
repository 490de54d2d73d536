"""Answers about approvals."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from msgspec import Struct

from domain.json import JsonObject
from domain.thread.state import Because, Running, State


class ApprovalView(Struct, frozen=True):
    """A tool call or a node of the graph that waits for a person's approval, or for the answer to a question."""

    approval_id: int
    """The id to decide by: for a call, its version; for a question, the version at which it was asked."""
    hash: str
    """Identifies what is shown here. A decision repeats it, so that it cannot apply to anything else."""
    because: Because
    node: str
    tool: str | None = None
    call_id: str | None = None
    arguments: JsonObject | None = None
    reason: str = ""
    """Why the tool itself asks; empty if it was declared that it needs approval."""
    question: str | None = None
    """What a node or a tool asks; `because` is then `question`, and the decision is `answer`."""
    answer_schema: JsonObject | None = None
    """The JSON schema of the answer; null: text."""


class Decided(Struct, frozen=True):
    """A decision was recorded."""

    thread_id: UUID
    approval_id: int
    decision: Literal["granted", "denied", "settled", "answered"]
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
        if c.status == "asked" and c.because != "question"
    ]
    tools = {call.version: call.request.name for call in turn.calls}
    questions = [
        ApprovalView(
            *(question.version, question.hash, "question", turn.node),
            tool=tools.get(question.call),
            question=question.text,
            answer_schema=question.schema or None,
        )
        for question in turn.open_questions
        if question.to == "person"
    ]
    if approval and not approval.granted:
        calls.insert(0, ApprovalView(approval.version, approval.hash, "policy", turn.node))
    return [*calls, *questions]
