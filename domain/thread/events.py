"""Every event of a thread. Names are in the past tense; each event states one fact, and no two state the same.

Names and fields are the storage format: stored events must stay readable. Never rename an event or a field. To change
an event, raise its `SCHEMA` and add an upcaster in `domain/thread/upcasters.py`.

Events refer to a message or a tool call by the version of the event that created it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.json import Json, JsonObject
from domain.models.answers import Finish, Unusual
from domain.models.chat import OutputFormat, ToolCall
from domain.windows import Span

END = "END"
"""The target of an edge that ends the turn: the `next` of the turn's last node."""

Durability: TypeAlias = Literal["sync", "turn", "async"]
"""When a turn's events are stored.

`sync`: each transition before the next node runs. `turn`: all at the turn's end. `async`: in the background.
"""

Strategy: TypeAlias = Literal["reject", "enqueue", "interrupt", "rollback"]
"""What happens to a message that arrives while a turn is running."""


class Limit(Struct, frozen=True, omit_defaults=True, gc=False):
    """A limit of the tokens and the cost of model calls in a window of time.

    `tokens` counts prompts and answers. `cost` is in the units of a price list. None means unlimited. From the fraction
    `warn_at` of either on, the rest is used sparingly.
    """

    window: Span
    tokens: int | None = None
    cost: int | None = None
    warn_at: float = 0.8


class Recalled(Struct, frozen=True, omit_defaults=True, gc=False):
    """An excerpt of an older message that was put into a prompt: its characters from `start` up to `end`."""

    message: int
    start: int
    end: int
    because: str = ""


class Event(Struct, frozen=True, omit_defaults=True, gc=False):
    """A fact about a thread."""

    SCHEMA: ClassVar[int] = 1


class ThreadOpened(Event, frozen=True):
    """A thread was opened, with an agent's graph and the caller's values. `subject` is the customer it is about.

    `limits` are its first budget: at most one limit for each window.
    """

    graph: str
    values: JsonObject = {}
    subject: str = ""
    limits: tuple[Limit, ...] = ()


class ThreadForked(Event, frozen=True):
    """A thread was forked from another one. Versions up to `at_version` are the parent's; this thread's follow."""

    parent: UUID
    at_version: int


class MessageEdited(Event, frozen=True):
    """In a fork, the text of an earlier message of the live window was replaced."""

    message: int
    content: str
    tokens: int


class BudgetSet(Event, frozen=True):
    """The thread's budget was replaced: at most one limit for each window.

    Without limits, the thread has no budget. Earlier spending counts.
    """

    limits: tuple[Limit, ...] = ()


class TurnStarted(Event, frozen=True):
    """A turn started. `node` is its first node, `graph` the fingerprint of the graph's shape.

    `retries` names an earlier turn that this one continues, at the node where that turn ended.
    """

    turn_id: UUID
    node: str
    graph: str
    durability: Durability = "sync"
    retries: UUID | None = None
    queued: int = 0
    """The version of the `TurnEnqueued` that this turn comes from; 0 if it was not queued."""
    agent_version: str = ""
    """The version of the agent, which the turn keeps as long as a process has it."""
    output: OutputFormat | None = None
    """What the client wants the turn's answer to be; None: as the agent answers."""


class TurnEnqueued(Event, frozen=True):
    """A message arrived while a turn was running. It waits for the end of that turn, which `strategy` may hasten."""

    turn_id: UUID
    content: str
    tokens: int
    node: str
    graph: str
    durability: Durability = "sync"
    strategy: Strategy = "enqueue"
    agent_version: str = ""
    output: OutputFormat | None = None


class TurnResumed(Event, frozen=True):
    """A worker resumed a turn, at its node in flight, after another worker had lost it or the turn had paused.

    Reports of the turn's earlier runs are ignored from now on. `graph` is the graph's current fingerprint.
    """

    worker: str
    graph: str


class MessageAppended(Event, frozen=True):
    """A user or the agent said something. `tokens` counts the content and, for the agent, the requested calls.

    `partial`: the turn was cancelled while the model was writing this. `finish` says how a model's answer ended, unless
    it ended normally. `extra` is what the model's endpoint `origin` sent in addition to the message and its calls, such
    as reasoning. Prompts return it to that endpoint; no other endpoint reads it.
    """

    role: Literal["user", "assistant"]
    content: str | None
    tokens: int
    partial: bool = False
    finish: Finish = ""
    extra: JsonObject = {}
    origin: str = ""


class ContextAssembled(Event, frozen=True):
    """A prompt was assembled: the messages with the versions `first` to `last`, after a summary.

    `tokens` counts the whole prompt (instructions, tools, summary and messages) and is at most `limit`.
    `summarised` is the last version that the summary covers, 0 without a summary.
    `pinned` is the user's message if it is older than `first`, otherwise 0.
    `fixed` counts the tokens of instructions, tools and the thread's `values`. The text store has the texts of
    instructions and tools, under the names in `texts`.
    `shortened` lists messages that were cut, each with the number of characters that remained.
    `of` is the version of the thread that the prompt was made from.
    `layout` is the prompt's layout: in layout 1, values and `recalled` excerpts are in the system message; since
    layout 2, they are before the user's last message. `recalled_tokens` counts the tokens of the excerpts.
    """

    first: int
    last: int
    tokens: int
    limit: int
    summarised: int = 0
    pinned: int = 0
    fixed: int = 0
    texts: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    recalled: tuple[Recalled, ...] = ()
    shortened: tuple[tuple[int, int], ...] = ()
    of: int = 0
    layout: int = 1
    recalled_tokens: int = 0


class ModelCalled(Event, frozen=True):
    """A model was called and used tokens: as the endpoint reports, or as counted here if it does not (`estimated`).

    `finish_reason` is the endpoint's. Without a complete answer it is `interrupted`, `malformed` or `too_large`. After
    an unusable answer, a `ModelFailed` or `NodeFailed` follows.
    `counted` is our count of the prompt, if the endpoint's differs. An implausible report is replaced by our count;
    `reported` is then the endpoint's own count, of prompt and answer. `provider` names the endpoint. `because` says why
    this model was called and not the first choice. `reservation` is the reservation that the tokens belong to.
    `omitted` lists what the agent asked for and the endpoint does not support: `tools`, `temperature`, `max_tokens`.
    `cached` is how many tokens of the prompt were in the endpoint's cache, which most endpoints discount.
    """

    model: str
    prompt_tokens: int
    completion_tokens: int
    duration_ms: int
    finish_reason: str
    estimated: bool = False
    counted: int = 0
    reported: tuple[int, int] | None = None
    provider: str = ""
    because: str = ""
    reservation: UUID | None = None
    omitted: tuple[str, ...] = ()
    hint: str = ""
    """Text added to the prompt's last message, because the model's first answer to this prompt was empty."""
    cached: int = 0


class ModelAnswered(Event, frozen=True):
    """A model answered outside of the conversation; the `ModelCalled` before this event has what that used.

    Either a node or an item asked `prompt`: then `question` is a digest of the request, and `number` counts the
    questions of the node or of the item, from 0. Or the node called `generate` and did not record the message as it
    was: then `question` is empty, `number` counts the node's calls of `generate`, and `calls` are the tool calls that
    the model requested. `item` is the index of the item that asked, in the node's list number `fan_out`; `item_node` is
    the node of its graph, if it runs one. `fits` is False for an answer that is not what was asked for, also after a
    correction.
    """

    number: int
    content: str | None
    question: str = ""
    prompt: str = ""
    instructions: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: Finish = ""
    item: int | None = None
    fan_out: int = 0
    fits: bool = True
    item_node: str = ""


class ModelFailed(Event, frozen=True):
    """A model gave no usable answer; another model may be called instead.

    `error` is for people. If the call used tokens, a `ModelCalled` before this event has them.
    """

    model: str
    provider: str
    error: str
    duration_ms: int
    because: str = ""


class BudgetThresholdReached(Event, frozen=True):
    """The previous model call reached the warning threshold of a limit of the thread or of its tenant.

    `start` is the start of the limit's window. A tenant's limit may apply to one subject,
    agent or model only.
    """

    scope: Literal["thread", "tenant"]
    limit: Limit
    start: datetime
    tokens: int
    cost: int
    agent: str = ""
    model: str = ""
    subject: str = ""


class ToolRequested(Event, frozen=True):
    """The last assistant message requested a tool call. The version of this event identifies the call.

    `written` is the beginning of what the model wrote as arguments, if that is not their JSON.
    A call with a `fault` is not run: the model reads the fault.
    `extra` is what the message's endpoint sent in addition to the call, such as a signature.
    """

    call_id: str
    tool: str
    arguments: JsonObject
    written: str = ""
    fault: str = ""
    extra: JsonObject = {}


class ApprovalRequested(Event, frozen=True):
    """A tool call, or else the node in flight, may not run before a person approves it.

    A call's approval is identified by the call's version, a node's by the version of this event. `hash` identifies what
    the person sees: see `domain.thread.approvals`. `outcome_unknown`: an earlier attempt may have had its effect.
    `reason` is the tool's own: it was started, and asks for approval before its effect.
    """

    hash: str
    call: int = 0
    node: str = ""
    because: Literal["policy", "outcome_unknown"] = "policy"
    reason: str = ""


class ApprovalGranted(Event, frozen=True):
    """A person approved a call or a node. `arguments` replace the ones that the model requested."""

    approval: int
    arguments: JsonObject | None = None


class ApprovalDenied(Event, frozen=True):
    """A person denied a call or a node. For a call, this is its outcome, and `reason` is what the model reads."""

    approval: int
    reason: str
    tokens: int


class ToolStarted(Event, frozen=True):
    """A call is about to run, for the `attempt`th time. Stored before it runs, so that a crash cannot hide the call."""

    call: int
    attempt: int = 1


class ToolSucceeded(Event, frozen=True):
    """A call succeeded. `content` is what the model reads."""

    call: int
    content: str
    tokens: int
    duration_ms: int


class ToolFailed(Event, frozen=True):
    """A call failed. `error` is what the model reads. `retry`: the tool asked the model to call it again."""

    call: int
    error: str
    tokens: int
    duration_ms: int
    retry: bool = False


class ToolOutcomeUnknown(Event, frozen=True):
    """A call was started and its process died. It is not run again. `error` is what the model reads."""

    call: int
    error: str
    tokens: int


class QuestionAsked(Event, frozen=True):
    """A node, or the tool call of the version `call`, asked a question. The turn waits for the answer.

    The version of this event identifies the question. `to` is who answers: a person in charge, or the customer, whose
    next message is the answer. `hash` identifies what is shown, `schema` is the JSON schema of the answer ({}: text).
    `number` counts the questions of the node or of the call, from 0.
    """

    text: str
    hash: str
    schema: JsonObject = {}
    to: Literal["person", "customer"] = "person"
    number: int = 0
    call: int = 0


class QuestionAnswered(Event, frozen=True):
    """The question of the version `question` was answered."""

    question: int
    answer: Json


class FanOutStarted(Event, frozen=True):
    """A node is about to process each of these items. `fan_out` counts the lists of the node, from 0.

    `each` is the name of the tool or the graph that processes an item; "" for a function.
    """

    items: list[Json]
    fan_out: int = 0
    each: str = ""


class ItemAdvanced(Event, frozen=True):
    """One item of a node's list has completed a node of the graph that it runs. `values` are the item's values then."""

    index: int
    node: str
    next: str
    values: JsonObject
    duration_ms: int
    fan_out: int = 0


class ItemCompleted(Event, frozen=True):
    """One item of a node's list has a result. `fan_out` is the list: see `FanOutStarted`."""

    index: int
    result: Json
    duration_ms: int
    fan_out: int = 0


class ItemFailed(Event, frozen=True):
    """An attempt of one item failed. Without `retry_in_ms`, the node's attempt fails, too."""

    index: int
    attempt: int
    error: str
    retry_in_ms: int | None = None
    fan_out: int = 0


class StateUpdated(Event, frozen=True):
    """The thread's values changed by a JSON merge patch (RFC 7396).

    `outside`: a caller changed them while a turn was running. Rolling the turn back does not undo this.
    """

    changes: JsonObject
    outside: bool = False


class NodeCompleted(Event, frozen=True):
    """A node completed. The graph chose the `next` one."""

    node: str
    next: str
    attempt: int
    duration_ms: int


class NodeFailed(Event, frozen=True):
    """An attempt of a node failed. With `retry_in_ms` another follows, without it the turn fails."""

    node: str
    attempt: int
    error: str
    duration_ms: int
    retry_in_ms: int | None = None


class HistoryCompacted(Event, frozen=True):
    """A summary replaced the messages of the live window up to and including the version `through`.

    The log keeps the messages. `by` is the model that wrote the summary; without it, the summary is an extract.
    """

    through: int
    summary: str
    tokens: int
    by: str = ""


class CancellationRequested(Event, frozen=True):
    """The running turn is to end. Its worker stops it and records `TurnCancelled` or `TurnRolledBack`."""

    turn_id: UUID
    how: Literal["cancelled", "interrupted", "rolled_back"]


class TurnCompleted(Event, frozen=True):
    """The agent answered. `reason` says how its last message is unusual, if it is."""

    turn_id: UUID
    reason: Unusual | None = None


FailureReason: TypeAlias = Literal[
    "node_failed",
    "step_limit",
    "repeated_calls",
    "graph_changed",
    "calls_not_run",
    "resumed_too_often",
    "approval_denied",
    "budget_exhausted",
    "empty_answer",
    "content_filter",
]
"""Why a turn failed, for programs."""


class TurnFailed(Event, frozen=True):
    """The turn failed. `reason` is for programs, `detail` for people."""

    turn_id: UUID
    reason: FailureReason
    detail: str


class TurnCancelled(Event, frozen=True):
    """The turn was cancelled. Its messages and changes stay."""

    turn_id: UUID
    how: Literal["cancelled", "interrupted"]


class TurnRolledBack(Event, frozen=True):
    """The turn was cancelled, and the thread's state is as it was before the turn. The log keeps the turn's events."""

    turn_id: UUID


TurnEnd: TypeAlias = TurnCompleted | TurnFailed | TurnCancelled | TurnRolledBack
"""The last event of a turn: exactly one of these."""

TURN_OUTCOMES: Mapping[type[Event], str] = {
    TurnCompleted: "completed",
    TurnFailed: "failed",
    TurnCancelled: "cancelled",
    TurnRolledBack: "rolled_back",
}
"""What counts of turns call the ends of turns."""

CallOutcome: TypeAlias = Literal["succeeded", "failed", "unknown", "denied"]

CALL_OUTCOMES: Mapping[type[Event], CallOutcome] = {
    ToolSucceeded: "succeeded",
    ToolFailed: "failed",
    ToolOutcomeUnknown: "unknown",
    ApprovalDenied: "denied",
}
"""What counts of calls call the outcomes of calls. Each is also a message to the model. A denied node is no call."""

NodeEvent: TypeAlias = (
    ContextAssembled
    | ModelCalled
    | BudgetThresholdReached
    | MessageAppended
    | ToolRequested
    | StateUpdated
    | HistoryCompacted
    | ModelAnswered
)
"""Events that a node may record. The runtime records all others."""

EVENTS: tuple[type[Event], ...] = tuple(Event.__subclasses__())
"""All events, in the order of this file."""


def text_of(event: Event) -> str | None:
    """Return the text that an event adds to a message or a summary; None for other events."""
    match event:
        case MessageAppended() | MessageEdited() | ToolSucceeded():
            return event.content
        case ToolFailed() | ToolOutcomeUnknown():
            return event.error
        case ApprovalDenied():
            return event.reason
        case HistoryCompacted():
            return event.summary
        case _:
            return None
