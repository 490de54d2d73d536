"""Approvals: how a person's decision is handled, and the hashes of what a person approves.

A decision names the hash, so that it applies only to what the person saw.
"""

from domain.errors import ApprovalChanged, InvalidInput, UnknownApproval
from domain.json import JsonObject, check_json, check_text
from domain.thread import events
from domain.thread.codec import to_json
from domain.thread.commands import DecideApproval
from domain.thread.evolve import digest
from domain.thread.size_limits import MAX_ARGUMENTS_CHARACTERS, check_json_size, check_text_size
from domain.thread.state import Running, State
from domain.thread.turn_end import Events, close_open_calls, start_queued_turns


def hash_of_call(tool: str, arguments: JsonObject, reason: str = "") -> str:
    """Return the hash of a tool call, and of the tool's own reason: 16 hexadecimal digits."""
    return digest({"tool": tool, "arguments": arguments, **({"reason": reason} if reason else {})})


def hash_of_node(turn_id: str, node: str, step: int) -> str:
    """Return the hash of a node in flight: 16 hexadecimal digits."""
    return digest({"turn": turn_id, "node": node, "step": step})


def decide_approval(command: DecideApproval, state: State) -> Events:
    """Return the events of a person's decision about a call or a node that waits for it.

    Raises:
        UnknownApproval: nothing waits under this number.
        ApprovalChanged: the person saw something else than what waits.
        InvalidInput: the decision does not fit what waits.
    """
    if command.arguments is not None:
        check_json(command.arguments, "arguments")
        check_json_size(command.arguments, "arguments", MAX_ARGUMENTS_CHARACTERS)
    check_text(command.told, "reason")
    check_text_size(command.told, "reason")
    if not isinstance(state, Running) or state.turn.cancelling:
        raise UnknownApproval(command.approval)
    approval = state.turn.approval
    if approval and not approval.granted and approval.version == command.approval:
        return _decide_node(command, state, approval.hash)
    call = next((c for c in state.turn.calls if c.version == command.approval and c.status == "asked"), None)
    if any(question.version == command.approval for question in state.turn.open_questions):
        raise InvalidInput("decision", "this is a question; decide with `answer`, and give the answer")
    if call is None or call.because == "question":
        raise UnknownApproval(command.approval)
    if command.hash != call.hash:
        raise ApprovalChanged(command.hash, call.hash)
    if command.decision == "settle" and call.because != "outcome_unknown":
        raise InvalidInput("decision", "only a call whose outcome is unknown can be settled; grant or deny this one")
    if command.decision == "settle":
        return (events.ToolSucceeded(command.approval, command.told, command.tokens, 0),)
    if command.decision == "deny":
        return (events.ApprovalDenied(command.approval, command.told, command.tokens),)
    changed = command.arguments is not None and to_json(command.arguments) != to_json(call.request.arguments)
    return (events.ApprovalGranted(command.approval, command.arguments if changed else None),)


def _decide_node(command: DecideApproval, state: Running, shown: str) -> Events:
    if command.hash != shown:
        raise ApprovalChanged(command.hash, shown)
    if command.arguments is not None:
        raise InvalidInput("arguments", "a node has no arguments; leave them out")
    if command.decision == "settle":
        raise InvalidInput("decision", "a node cannot be settled; grant or deny it")
    if command.decision == "grant":
        return (events.ApprovalGranted(command.approval),)
    turn = state.turn
    denied = events.ApprovalDenied(command.approval, command.told, command.tokens)
    failed = events.TurnFailed(turn.turn_id, "approval_denied", f"{turn.node}: {command.told}")
    return start_queued_turns(state, (denied, *close_open_calls(state), failed))
