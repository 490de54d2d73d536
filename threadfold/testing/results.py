"""What a test sees of a turn: how it went, its tool calls, and what it waits for."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from domain.ids import Version
from domain.json import JsonObject
from domain.thread import events as thread_events
from domain.thread.codec import Recorded
from domain.thread.state import Running, State

_STATUS: dict[type[thread_events.Event], str] = {
    thread_events.TurnCompleted: "completed",
    thread_events.TurnFailed: "failed",
    thread_events.TurnCancelled: "cancelled",
    thread_events.TurnRolledBack: "rolled_back",
}


class ToolResult(Struct, frozen=True):
    """A tool call of a turn. `outcome` is None while it waits."""

    tool: str
    arguments: JsonObject
    outcome: Literal["succeeded", "failed", "unknown", "denied"] | None
    content: str


class Pending(Struct, frozen=True):
    """What a turn waits for. `kind` is `call`, `node`, `question` (to a person) or `customer` (their next message).

    `because` is `policy` or, for a call that a crash left open, `outcome_unknown`: then `settle` says what came of it.
    """

    kind: Literal["call", "node", "question", "customer"]
    version: Version
    hash: str
    tool: str = ""
    arguments: JsonObject = {}
    question: str = ""
    schema: JsonObject = {}
    because: str = "policy"


class TurnResult(Struct, frozen=True):
    """How a turn went so far. `answer` is the agent's last message, `events` are all events of the turn.

    `status` is `completed`, `failed`, `cancelled`, `rolled_back`, `waiting`, `crashed`, or `stuck` at a node that the
    deployed agents do not have; `reason` and `detail` are those of a failure, and `detail` says why a turn is stuck.
    """

    status: str
    answer: str | None
    tools: Sequence[ToolResult]
    events: Sequence[thread_events.Event]
    reason: str | None = None
    detail: str | None = None

    def happened(self, *kinds: type[thread_events.Event]) -> list[thread_events.Event]:
        """Return the turn's events of some types."""
        return [event for event in self.events if isinstance(event, kinds)]


def result_of(turn: Sequence[Recorded], state: State, *, crashed: bool) -> TurnResult:
    """Return the result of a turn, from its events and the state after them."""
    end = next((one.event for one in turn if isinstance(one.event, thread_events.TurnEnd)), None)
    said = [one.event for one in turn if isinstance(one.event, thread_events.MessageAppended)]
    return TurnResult(
        _STATUS[type(end)] if end else ("crashed" if crashed else "waiting" if state.waiting else "stuck"),
        next((message.content for message in reversed(said) if message.role == "assistant"), None),
        _tools(turn),
        [one.event for one in turn],
        end.reason if isinstance(end, thread_events.TurnFailed | thread_events.TurnCompleted) else None,
        end.detail if isinstance(end, thread_events.TurnFailed) else None,
    )


def pending_in(state: State) -> list[Pending]:
    """Return what a turn waits for."""
    if not isinstance(state, Running):
        return []
    turn, found = state.turn, list[Pending]()
    if turn.approval and not turn.approval.granted:
        found.append(Pending("node", turn.approval.version, turn.approval.hash))
    for one in turn.calls:
        if one.status == "asked" and one.because != "question":
            found.append(
                Pending("call", one.version, one.hash, one.request.name, one.request.arguments, because=one.because)
            )
    tools = {one.version: one.request.name for one in turn.calls}
    for asked in turn.open_questions:
        kind: Literal["question", "customer"] = "question" if asked.to == "person" else "customer"
        found.append(Pending(kind, asked.version, asked.hash, tools.get(asked.call, ""), {}, asked.text, asked.schema))
    return found


def _tools(turn: Sequence[Recorded]) -> list[ToolResult]:
    """Return the turn's calls, in the order of their requests."""
    results: dict[int, ToolResult] = {}
    for recorded in turn:
        match recorded.event:
            case thread_events.ToolRequested() as asked:
                results[recorded.version] = ToolResult(asked.tool, asked.arguments, None, "")
            case thread_events.ApprovalGranted(approval=version, arguments=changed) if changed and version in results:
                results[version] = replace(results[version], arguments=changed)
            case thread_events.ToolSucceeded() as done:
                results[done.call] = replace(results[done.call], outcome="succeeded", content=done.content)
            case thread_events.ToolFailed() as failed:
                results[failed.call] = replace(results[failed.call], outcome="failed", content=failed.error)
            case thread_events.ToolOutcomeUnknown() as unknown:
                results[unknown.call] = replace(results[unknown.call], outcome="unknown", content=unknown.error)
            case thread_events.ApprovalDenied() as denied if denied.approval in results:
                results[denied.approval] = replace(results[denied.approval], outcome="denied", content=denied.reason)
            case _:
                pass
    return list(results.values())
