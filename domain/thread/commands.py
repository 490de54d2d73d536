"""What may be asked of a thread. Ids, times and token counts enter here; deciding needs nothing else.

The first ones are people's. The others are reports of the runtime; each names the turn, the run of it and the step
that it is about, so that one that comes late, or twice, or from a worker that has lost the turn, changes nothing.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from domain.ids import ThreadId, TurnId, Version
from domain.json import Json, JsonObject
from domain.thread.events import (
    BudgetThresholdReached,
    Durability,
    HistoryCompacted,
    Limit,
    ModelCalled,
    ModelFailed,
    NodeEvent,
    Strategy,
)

CallOutcome: TypeAlias = Literal["succeeded", "failed", "unknown"]


class OpenThread(Struct, frozen=True):
    """Begin a conversation with an agent's graph."""

    graph: str
    values: JsonObject = {}


class ForkThread(Struct, frozen=True):
    """Begin a thread as another one was at a version."""

    parent: ThreadId
    at_version: Version


class EditMessage(Struct, frozen=True):
    """Let an earlier message of a fork read otherwise."""

    message: Version
    content: str
    tokens: int


class StartTurn(Struct, frozen=True):
    """Say something to the agent. `node` is where its graph starts, `graph` its fingerprint."""

    turn_id: TurnId
    content: str
    tokens: int
    node: str
    graph: str
    strategy: Strategy = "reject"
    durability: Durability = "sync"


class RetryTurn(Struct, frozen=True):
    """Go on, in a new turn, with one that failed or was cancelled, at the node where it ended."""

    retried: TurnId
    turn_id: TurnId
    graph: str
    durability: Durability = "sync"


class CancelTurn(Struct, frozen=True):
    """End a turn that runs, waits or is queued."""

    turn_id: TurnId


class DecideApproval(Struct, frozen=True):
    """Agree, refuse, or settle. `hash` names what was shown; `arguments` replace those that were asked for.

    `told` is what the model is told, `tokens` long: of a refusal, or, to settle a call that a crash left open, as its
    result.
    """

    approval: Version
    hash: str
    decision: Literal["grant", "deny", "settle"]
    arguments: JsonObject | None = None
    told: str = ""
    tokens: int = 0


class UpdateValues(Struct, frozen=True):
    """Change the thread's values by a JSON merge patch."""

    changes: JsonObject


class SetBudget(Struct, frozen=True):
    """Limit what the thread may spend, instead of what limited it before; without limits, lift the budget."""

    limits: tuple[Limit, ...]


class TellThreshold(Struct, frozen=True):
    """Most of a limit is spent, which a call of this thread has brought about."""

    fact: BudgetThresholdReached


class ResumeTurn(Struct, frozen=True):
    """Go on with the turn that nobody runs: from now on, this is its next run."""

    turn_id: TurnId
    run: int
    worker: str
    graph: str


class StopTurn(Struct, frozen=True):
    """The turn was stopped, as it was asked to be; `partial` is what the model had written by then.

    `calls` are those of models that the node in flight had made.
    """

    turn_id: TurnId
    partial: str | None
    tokens: int
    run: int = 0
    calls: tuple[ModelCalled, ...] = ()


class CompleteNode(Struct, frozen=True):
    """A node ended well. `next` is another node, or `END` of the turn."""

    turn_id: TurnId
    step: int
    facts: tuple[NodeEvent, ...]
    next: str
    duration_ms: int
    run: int = 0


class FailAttempt(Struct, frozen=True):
    """A node's attempt failed; with `retry_in_ms` another follows, else the turn fails. Its calls of models count."""

    turn_id: TurnId
    step: int
    attempt: int
    error: str
    duration_ms: int
    retry_in_ms: int | None
    run: int = 0
    calls: tuple[ModelCalled, ...] = ()
    reason: Literal["node_failed", "empty_answer", "content_filter"] = "node_failed"
    """What the turn fails with, if no further attempt follows."""


class StartCalls(Struct, frozen=True):
    """Tool calls are about to run, each for the `n`th time: (call, n)."""

    turn_id: TurnId
    calls: tuple[tuple[Version, int], ...]
    run: int = 0


class EndCall(Struct, frozen=True):
    """A tool call has an outcome: what the model is told of it, in `content`."""

    turn_id: TurnId
    call: Version
    outcome: CallOutcome
    content: str
    tokens: int
    duration_ms: int = 0
    run: int = 0


class CompactHistory(Struct, frozen=True):
    """Older messages are to leave the live window."""

    turn_id: TurnId
    fact: HistoryCompacted
    run: int = 0


class AskPerson(Struct, frozen=True):
    """A person has to agree before some calls, or else the node in flight, may run."""

    turn_id: TurnId
    calls: tuple[Version, ...] = ()
    because: Literal["policy", "outcome_unknown"] = "policy"
    run: int = 0


class StartFanOut(Struct, frozen=True):
    """The node in flight is about to work on each of these items."""

    turn_id: TurnId
    step: int
    items: tuple[Json, ...]
    run: int = 0


class CompleteItem(Struct, frozen=True):
    """An item has a result, for which the model may have been called."""

    turn_id: TurnId
    step: int
    index: int
    result: Json
    calls: tuple[ModelCalled, ...]
    duration_ms: int
    run: int = 0


class FailItem(Struct, frozen=True):
    """An attempt at an item failed. Its calls of models count."""

    turn_id: TurnId
    step: int
    index: int
    attempt: int
    error: str
    retry_in_ms: int | None
    run: int = 0
    calls: tuple[ModelCalled, ...] = ()


class NoteFailure(Struct, frozen=True):
    """A model did not answer, or not in a way that can be used; then its call counts. The node goes on."""

    turn_id: TurnId
    fact: ModelFailed
    run: int = 0
    calls: tuple[ModelCalled, ...] = ()


class NoteCalls(Struct, frozen=True):
    """Models were called, though nothing else is to be reported now: the turn waits, or this process ends."""

    turn_id: TurnId
    calls: tuple[ModelCalled, ...] = ()
    run: int = 0


class FailTurn(Struct, frozen=True):
    """The turn cannot go on. The calls of models that its node made count."""

    turn_id: TurnId
    reason: Literal["step_limit", "repeated_calls", "graph_changed", "budget_exhausted", "resumed_too_often"]
    detail: str
    run: int = 0
    calls: tuple[ModelCalled, ...] = ()


Report: TypeAlias = (
    ResumeTurn
    | StopTurn
    | CompleteNode
    | FailAttempt
    | StartCalls
    | EndCall
    | CompactHistory
    | AskPerson
    | StartFanOut
    | CompleteItem
    | FailItem
    | NoteFailure
    | NoteCalls
    | FailTurn
)
"""What the runtime says of a turn."""

Command: TypeAlias = (
    OpenThread
    | ForkThread
    | EditMessage
    | StartTurn
    | RetryTurn
    | CancelTurn
    | DecideApproval
    | UpdateValues
    | SetBudget
    | TellThreshold
    | Report
)
