"""What may be asked of a thread. Ids, times and token counts enter here; deciding needs nothing else.

The first three are people's. The others are reports of the runtime; each names the turn and the step that it is
about, so that one that comes late or twice changes nothing.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from domain.events import HistoryCompacted, NodeFact
from domain.ids import TurnId, Version
from domain.json import JsonObject

CallOutcome: TypeAlias = Literal["succeeded", "failed", "unknown"]


class OpenThread(Struct, frozen=True):
    """Begin a conversation with an agent's graph."""

    graph: str
    values: JsonObject = {}


class StartTurn(Struct, frozen=True):
    """Say something to the agent. `node` is where its graph starts, `graph` its fingerprint."""

    turn_id: TurnId
    content: str
    tokens: int
    node: str
    graph: str


class UpdateValues(Struct, frozen=True):
    """Change the thread's values by a JSON merge patch."""

    changes: JsonObject


class CompleteNode(Struct, frozen=True):
    """A node ended well. `next` is another node, or `END` of the turn."""

    turn_id: TurnId
    step: int
    facts: tuple[NodeFact, ...]
    next: str
    duration_ms: int


class FailAttempt(Struct, frozen=True):
    """A node's attempt failed; with `retry_in_ms` another follows, else the turn fails."""

    turn_id: TurnId
    step: int
    attempt: int
    error: str
    duration_ms: int
    retry_in_ms: int | None


class StartCalls(Struct, frozen=True):
    """Tool calls are about to run."""

    turn_id: TurnId
    calls: tuple[Version, ...]


class EndCall(Struct, frozen=True):
    """A tool call has an outcome: what the model is told of it, in `content`."""

    turn_id: TurnId
    call: Version
    outcome: CallOutcome
    content: str
    tokens: int
    duration_ms: int = 0


class CompactHistory(Struct, frozen=True):
    """Older messages are to leave the live window."""

    turn_id: TurnId
    fact: HistoryCompacted


class FailTurn(Struct, frozen=True):
    """The turn cannot go on."""

    turn_id: TurnId
    reason: Literal["step_limit", "graph_changed"]
    detail: str


Command: TypeAlias = (
    OpenThread
    | StartTurn
    | UpdateValues
    | CompleteNode
    | FailAttempt
    | StartCalls
    | EndCall
    | CompactHistory
    | FailTurn
)
