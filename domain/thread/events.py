"""Every event of a thread. Past tense, one fact each, nothing said twice.

Names and fields are the storage format: an event that was written once is read for ever. Change one by raising its
`SCHEMA` and adding an upcaster in `domain/thread/upcasters.py`; never rename.

Other events refer to a message or a tool call by the version of the event that brought it.
"""

from datetime import datetime
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.json import Json, JsonObject
from domain.models.answers import Finish, Unusual
from domain.windows import Span

END = "END"
"""Where a graph's edge leads when the turn is over: the `next` of its last node."""

Durability: TypeAlias = Literal["sync", "turn", "async"]
"""When a turn's events are stored: each transition before the next node runs, all at the turn's end, or behind it."""

Strategy: TypeAlias = Literal["reject", "enqueue", "interrupt", "rollback"]
"""What becomes of a message to a thread whose turn still runs."""


class Limit(Struct, frozen=True, omit_defaults=True, gc=False):
    """What may be spent in a window of time: tokens of prompts and answers, and money, in the units of a price list.

    None: as much as one likes. From the share `warn_at` of either on, what is left is used sparingly.
    """

    window: Span
    tokens: int | None = None
    cost: int | None = None
    warn_at: float = 0.8


class Recalled(Struct, frozen=True, omit_defaults=True, gc=False):
    """A part of an older message that the model was shown again: its characters from `start` up to `end`."""

    message: int
    start: int
    end: int
    because: str = ""


class Event(Struct, frozen=True, omit_defaults=True, gc=False):
    """A fact about a thread."""

    SCHEMA: ClassVar[int] = 1


class ThreadOpened(Event, frozen=True):
    """A conversation began, with an agent's graph and the user's own values."""

    graph: str
    values: JsonObject = {}


class ThreadForked(Event, frozen=True):
    """A thread left another one: everything up to `at_version` is the parent's. Versions go on from there."""

    parent: UUID
    at_version: int


class MessageEdited(Event, frozen=True):
    """In a fork, an earlier message of the live window reads otherwise from now on."""

    message: int
    content: str
    tokens: int


class BudgetSet(Event, frozen=True):
    """What the thread may spend from now on: at most one limit for each window, and none of those before.

    Without limits, the budget is lifted. What was spent before counts.
    """

    limits: tuple[Limit, ...] = ()


class TurnStarted(Event, frozen=True):
    """The agent began to act. `node` is where it begins, `graph` the fingerprint of the graph's shape.

    `retries` names an earlier turn that this one goes on with, at the node where that ended.
    """

    turn_id: UUID
    node: str
    graph: str
    durability: Durability = "sync"
    retries: UUID | None = None
    queued: int = 0
    """The version of the `TurnEnqueued` that it comes from."""


class TurnEnqueued(Event, frozen=True):
    """A message came while a turn was running; it waits for that turn's end, which `strategy` may have asked for."""

    turn_id: UUID
    content: str
    tokens: int
    node: str
    graph: str
    durability: Durability = "sync"
    strategy: Strategy = "enqueue"


class TurnResumed(Event, frozen=True):
    """A worker went on, at the node in flight, with a turn that another one had left, or that had stopped here.

    Reports of whoever ran the turn before count no more. `graph` is the fingerprint now.
    """

    worker: str
    graph: str


class MessageAppended(Event, frozen=True):
    """Somebody said something. `tokens` counts the content and, of an assistant, the calls that it asks for.

    `partial`: the turn was cancelled while this was being written. `finish` says how a model's answer ended, where
    that is not the usual way. `extra` is what else the model's endpoint `origin` said with the message or its calls,
    such as its reasoning: it is returned to that endpoint, and read by no one else.
    """

    role: Literal["user", "assistant"]
    content: str | None
    tokens: int
    partial: bool = False
    finish: Finish = ""
    extra: JsonObject = {}
    origin: str = ""


class ContextAssembled(Event, frozen=True):
    """What the model was about to see: messages by version, from `first` to `last`, and a summary before them.

    `tokens` of at most `limit` count everything: instructions, tools, summary and messages. `summarised` is the last
    version that the summary covers; `pinned` the user's message, where it is older than `first`; 0 if there is none.
    `fixed` of the tokens are those of instructions and tools, whose texts are kept under the names that `texts` gives,
    and of the thread's `values`. `shortened` says of which messages only so many characters were shown.
    `of` is the version of the thread that it was made of. `layout` says how the prompt was laid out: in layout 1,
    values and what was `recalled` stood in the system's message; since layout 2, before the user's last words.
    `recalled_tokens` are those of what was recalled.
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
    """A model was asked, and that has cost tokens: the endpoint's count, or ours where it reports none (`estimated`).

    `finish_reason` is the endpoint's, or says why there is no whole answer: it was `interrupted`, `malformed` or
    `too_large`. A `ModelFailed` or `NodeFailed` follows on an answer that could not be used.
    `counted` is our count of the prompt, where the endpoint's is another. An endpoint that reports what cannot be is
    not believed: our count stands, and `reported` keeps its own, of prompt and answer. `provider` names the endpoint,
    and `because` says why it was this model and not the first choice. `reservation` is what the tokens were taken from.
    `omitted` is what the agent asked for and the endpoint does not take: `tools`, `temperature`, `max_tokens`.
    `cached` tokens of the prompt were in the endpoint's cache, which most endpoints discount.
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
    """What the prompt's last message ended with, since the model had been asked before and had not answered."""
    cached: int = 0


class ModelFailed(Event, frozen=True):
    """A model did not answer, or not in a way that can be used; another one may be asked instead.

    `error` is for people. What the call has cost, if anything, is in the `ModelCalled` before.
    """

    model: str
    provider: str
    error: str
    duration_ms: int
    because: str = ""


class BudgetThresholdReached(Event, frozen=True):
    """With the call before, the share `warn_at` of a limit is spent: of the thread's own, or of one of its tenant's.

    `start` is when the limit's window began. A tenant's limit may be of one agent or model only.
    """

    scope: Literal["thread", "tenant"]
    limit: Limit
    start: datetime
    tokens: int
    cost: int
    agent: str = ""
    model: str = ""


class ToolRequested(Event, frozen=True):
    """The last assistant message asks for a tool. The version of this event names the call from now on.

    `written` is the beginning of what the model wrote in the place of the arguments, where that is not their JSON.
    A call with a `fault` is not run: the model is told what it says.
    `extra` is what else the message's endpoint said with the call, such as a signature.
    """

    call_id: str
    tool: str
    arguments: JsonObject
    written: str = ""
    fault: str = ""
    extra: JsonObject = {}


class ToolStarted(Event, frozen=True):
    """A call is about to run, for the `attempt`th time. Written before it does: no crash can hide that it may have."""

    call: int
    attempt: int = 1


class ToolSucceeded(Event, frozen=True):
    """A call has run. `content` is what the model is told."""

    call: int
    content: str
    tokens: int
    duration_ms: int


class ToolFailed(Event, frozen=True):
    """A call could not do what was asked. `error` is what the model is told."""

    call: int
    error: str
    tokens: int
    duration_ms: int


class ToolOutcomeUnknown(Event, frozen=True):
    """A call was started and its process died. It is not run again; the model is told so by `error`."""

    call: int
    error: str
    tokens: int


class ApprovalRequested(Event, frozen=True):
    """Something may not run before a person agrees: a tool call, or else the node in flight.

    A call is named by its version; a node's approval by the version of this event. `hash` names what is shown to the
    person: see `domain.thread.approvals`. `outcome_unknown`: the call was started before and may have had its effect.
    """

    hash: str
    call: int = 0
    node: str = ""
    because: Literal["policy", "outcome_unknown"] = "policy"


class ApprovalGranted(Event, frozen=True):
    """A person agreed, perhaps to other arguments than those that were asked for."""

    approval: int
    arguments: JsonObject | None = None


class ApprovalDenied(Event, frozen=True):
    """A person refused. Of a call, `reason` is what the model is told; it is the call's outcome."""

    approval: int
    reason: str
    tokens: int


class FanOutStarted(Event, frozen=True):
    """A node is about to work on each of some items."""

    items: list[Json]


class ItemCompleted(Event, frozen=True):
    """One item of the node's list has a result."""

    index: int
    result: Json
    duration_ms: int


class ItemFailed(Event, frozen=True):
    """An attempt at one item failed. Without `retry_in_ms`, so does the node's attempt."""

    index: int
    attempt: int
    error: str
    retry_in_ms: int | None = None


class StateUpdated(Event, frozen=True):
    """The thread's values changed, by a JSON merge patch (RFC 7396).

    `outside`: a caller changed them while a turn was running, so that rolling that back does not undo this.
    """

    changes: JsonObject
    outside: bool = False


class NodeCompleted(Event, frozen=True):
    """A node of the graph ended well, and the graph decided where to go next."""

    node: str
    next: str
    attempt: int
    duration_ms: int


class NodeFailed(Event, frozen=True):
    """A node's attempt failed. With `retry_in_ms` the next attempt follows; without, the turn fails."""

    node: str
    attempt: int
    error: str
    duration_ms: int
    retry_in_ms: int | None = None


class HistoryCompacted(Event, frozen=True):
    """Messages up to and including version `through` left the live window for a summary. The log keeps them.

    `by` names the model that wrote the summary; without, it is an extract.
    """

    through: int
    summary: str
    tokens: int
    by: str = ""


class CancellationRequested(Event, frozen=True):
    """The running turn is to end. Whoever runs it stops, and says with a `TurnCancelled` or `TurnRolledBack` so."""

    turn_id: UUID
    how: Literal["cancelled", "interrupted", "rolled_back"]


class TurnCompleted(Event, frozen=True):
    """The agent has answered. `reason` says what is to be known of its last message, if anything."""

    turn_id: UUID
    reason: Unusual | None = None


FailureReason: TypeAlias = Literal[
    "node_failed",
    "step_limit",
    "repeated_calls",
    "graph_changed",
    "resumed_too_often",
    "approval_denied",
    "budget_exhausted",
    "empty_answer",
    "content_filter",
]
"""Why a turn failed, for programs."""


class TurnFailed(Event, frozen=True):
    """The agent gave up. `reason` is for programs, `detail` for people."""

    turn_id: UUID
    reason: FailureReason
    detail: str


class TurnCancelled(Event, frozen=True):
    """The turn was ended from outside. What it had said and done stands."""

    turn_id: UUID
    how: Literal["cancelled", "interrupted"]


class TurnRolledBack(Event, frozen=True):
    """The turn was ended from outside, and the thread is as it was before. The log keeps what was."""

    turn_id: UUID


TurnEnd: TypeAlias = TurnCompleted | TurnFailed | TurnCancelled | TurnRolledBack
"""How a turn ends: in exactly one of these."""

NodeEvent: TypeAlias = (
    ContextAssembled
    | ModelCalled
    | BudgetThresholdReached
    | MessageAppended
    | ToolRequested
    | StateUpdated
    | HistoryCompacted
)
"""What a node may say happened. All else is said by the runtime."""

EVENTS: tuple[type[Event], ...] = (
    ThreadOpened,
    ThreadForked,
    MessageEdited,
    BudgetSet,
    TurnStarted,
    TurnEnqueued,
    TurnResumed,
    MessageAppended,
    ContextAssembled,
    ModelCalled,
    ModelFailed,
    BudgetThresholdReached,
    ToolRequested,
    ApprovalRequested,
    ApprovalGranted,
    ApprovalDenied,
    ToolStarted,
    ToolSucceeded,
    ToolFailed,
    ToolOutcomeUnknown,
    FanOutStarted,
    ItemCompleted,
    ItemFailed,
    StateUpdated,
    NodeCompleted,
    NodeFailed,
    HistoryCompacted,
    CancellationRequested,
    TurnCompleted,
    TurnFailed,
    TurnCancelled,
    TurnRolledBack,
)
