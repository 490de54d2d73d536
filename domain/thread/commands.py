"""Commands to a thread. Ids, times and token counts enter here, so that `decide` is a pure function.

The first commands come from clients. The commands of `RuntimeCommand` come from the runtime. Each of those names its
turn, and the run and the step of the turn. So a report that is late or repeated, or that comes from a worker which lost
the turn, has no effect: `run` is a fencing token.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from domain.ids import ThreadId, TurnId, Version
from domain.json import Json, JsonObject
from domain.models.chat import OutputFormat
from domain.thread import events

CallOutcome: TypeAlias = Literal["succeeded", "failed", "unknown"]


class OfTurn(Struct, frozen=True):
    """A command about one turn."""

    turn_id: TurnId


class OfStep(OfTurn, frozen=True):
    """A report on the node in flight, which `step` identifies."""

    step: int


class OpenThread(Struct, frozen=True):
    """Begin a conversation with an agent's graph, about a `subject`: a customer. `limits` are the thread's budget."""

    graph: str
    values: JsonObject = {}
    subject: str = ""
    limits: tuple[events.Limit, ...] = ()


class ForkThread(Struct, frozen=True):
    """Start a thread from the state that another thread had at a version."""

    parent: ThreadId
    at_version: Version


class EditMessage(Struct, frozen=True):
    """Replace the text of an earlier message of a fork."""

    message: Version
    content: str
    tokens: int


class StartTurn(Struct, frozen=True):
    """Send a user message to the agent. `node` is the graph's first node, `graph` the graph's fingerprint.

    `agent_version` is the version of the agent that the turn begins with. `output` is what its answer must be; None: as
    the agent answers.
    """

    turn_id: TurnId
    content: str
    tokens: int
    node: str
    graph: str
    strategy: events.Strategy = "reject"
    durability: events.Durability = "sync"
    agent_version: str = ""
    output: OutputFormat | None = None


class RetryTurn(Struct, frozen=True):
    """Continue a failed or cancelled turn in a new turn, at the node where it ended.

    `node` is the name that this node has now; empty if it is the same. `agent_version` is as in `StartTurn`.
    """

    retried: TurnId
    turn_id: TurnId
    graph: str
    durability: events.Durability = "sync"
    node: str = ""
    agent_version: str = ""


class CancelTurn(OfTurn, frozen=True):
    """End a turn that is running, waiting or queued."""


class DecideApproval(Struct, frozen=True):
    """A person's decision about a pending call or node.

    `hash` identifies what the person saw. `arguments` replace the requested ones. `told` is what the model reads, of
    `tokens` tokens: the reason of a denial, or the result with which a person settles a call that a crash left open.
    """

    approval: Version
    hash: str
    decision: Literal["grant", "deny", "settle"]
    arguments: JsonObject | None = None
    told: str = ""
    tokens: int = 0


class AnswerQuestion(Struct, frozen=True):
    """A person answers the question of the version `question`. `hash` is that of the question as it was shown."""

    question: Version
    hash: str
    answer: Json


class UpdateValues(Struct, frozen=True):
    """Change the thread's values by a JSON merge patch."""

    changes: JsonObject


class SetBudget(Struct, frozen=True):
    """Replace the thread's budget. An empty tuple removes it."""

    limits: tuple[events.Limit, ...]


class RecordThreshold(Struct, frozen=True):
    """A model call of this thread reached the warning threshold of a limit."""

    fact: events.BudgetThresholdReached


class ResumeTurn(OfTurn, frozen=True):
    """A worker takes over a turn that no worker is running: `run` is the last run, the next one begins."""

    run: int
    worker: str
    graph: str


class StopTurn(OfTurn, frozen=True):
    """The worker stopped the turn after a cancellation request. `partial` is what the model had written by then.

    `calls` are the model calls of the node in flight.
    """

    partial: str | None
    tokens: int
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()


class CompleteNode(OfStep, frozen=True):
    """A node completed. `next` is the next node, or `END`."""

    facts: tuple[events.NodeEvent, ...]
    next: str
    duration_ms: int
    run: int = 0


class FailAttempt(OfStep, frozen=True):
    """An attempt of a node failed. With `retry_in_ms` another follows, without it the turn fails.

    `calls` are the attempt's model calls, which count as usage.
    """

    attempt: int
    error: str
    duration_ms: int
    retry_in_ms: int | None
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()
    reason: Literal["node_failed", "empty_answer", "content_filter"] = "node_failed"
    """Why the turn fails, if no further attempt follows."""


class StartCalls(OfTurn, frozen=True):
    """Tool calls are about to run: pairs of a call's version and the number of the attempt, from 1."""

    calls: tuple[tuple[Version, int], ...]
    run: int = 0


class EndCall(OfTurn, frozen=True):
    """A tool call has an outcome. `content` is what the model reads.

    `not_run`: the call failed without being started, because its arguments do not fit. `retry`: the tool asked the
    model to call it again.
    """

    call: Version
    outcome: CallOutcome
    content: str
    tokens: int
    duration_ms: int = 0
    run: int = 0
    not_run: bool = False
    retry: bool = False


class CompactHistory(OfTurn, frozen=True):
    """Replace older messages of the live window by a summary."""

    fact: events.HistoryCompacted
    run: int = 0


class RequestApproval(OfTurn, frozen=True):
    """Ask a person to approve some tool calls or, without `calls`, the node in flight. `reason` is the tool's own."""

    calls: tuple[Version, ...] = ()
    because: Literal["policy", "outcome_unknown"] = "policy"
    run: int = 0
    reason: str = ""


class StartFanOut(OfStep, frozen=True):
    """The node in flight is about to process each of these items; see `FanOutStarted`."""

    items: tuple[Json, ...]
    run: int = 0
    fan_out: int = 0
    each: str = ""


class AdvanceItem(OfStep, frozen=True):
    """An item has completed a node of its graph, after `done` others. `calls` are the model calls that it took."""

    index: int
    done: int
    node: str
    next: str
    values: JsonObject
    duration_ms: int
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()
    fan_out: int = 0


class CompleteItem(OfStep, frozen=True):
    """An item has a result. `calls` are the model calls that it took."""

    index: int
    result: Json
    calls: tuple[events.ModelCalled, ...]
    duration_ms: int
    run: int = 0
    fan_out: int = 0


class FailItem(OfStep, frozen=True):
    """An attempt of an item failed. `calls` are its model calls, which count as usage."""

    index: int
    attempt: int
    error: str
    retry_in_ms: int | None
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()
    fan_out: int = 0


class RecordAnswer(OfStep, frozen=True):
    """A model answered a question of the node in flight or of one of its items. `calls` are the calls that it took."""

    answer: events.ModelAnswered
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()


class AskQuestion(OfStep, frozen=True):
    """The node in flight, or its tool call of the version `call`, asks a person or the customer.

    See `QuestionAsked`. `tokens` counts the text, which the customer reads as a message of the agent.
    """

    text: str
    tokens: int
    to: Literal["person", "customer"]
    schema: JsonObject
    number: int
    run: int = 0
    call: Version = Version(0)


class RecordModelFailure(OfTurn, frozen=True):
    """A model gave no answer, or an unusable one; an unusable answer's call is in `calls`. The node goes on."""

    fact: events.ModelFailed
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()


class RecordModelCalls(OfTurn, frozen=True):
    """Model calls that no other report carries, because the turn waits or this process ends."""

    calls: tuple[events.ModelCalled, ...] = ()
    run: int = 0


class FailTurn(OfTurn, frozen=True):
    """The turn cannot go on. `calls` are the model calls of the node in flight, which count as usage."""

    reason: Literal["step_limit", "repeated_calls", "graph_changed", "budget_exhausted", "resumed_too_often"]
    detail: str
    run: int = 0
    calls: tuple[events.ModelCalled, ...] = ()


RuntimeCommand: TypeAlias = (
    ResumeTurn
    | StopTurn
    | CompleteNode
    | FailAttempt
    | StartCalls
    | EndCall
    | CompactHistory
    | RequestApproval
    | StartFanOut
    | AdvanceItem
    | CompleteItem
    | FailItem
    | RecordAnswer
    | AskQuestion
    | RecordModelFailure
    | RecordModelCalls
    | FailTurn
)
"""Commands of the runtime about the turn in progress."""

Command: TypeAlias = (
    OpenThread
    | ForkThread
    | EditMessage
    | StartTurn
    | RetryTurn
    | CancelTurn
    | DecideApproval
    | AnswerQuestion
    | UpdateValues
    | SetBudget
    | RecordThreshold
    | RuntimeCommand
)
