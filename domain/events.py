"""Every event of a thread. Past tense, one fact each, nothing said twice.

Names and fields are the storage format: an event that was written once is read for ever. Change one by raising its
`SCHEMA` and adding an upcaster in `domain/upcasters.py`; never rename.

Other events refer to a message or a tool call by the version of the event that brought it.
"""

from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.json import JsonObject


class Event(Struct, frozen=True, omit_defaults=True):
    """A fact about a thread."""

    SCHEMA: ClassVar[int] = 1


class ThreadOpened(Event, frozen=True):
    """A conversation began, with an agent's graph and the user's own values."""

    graph: str
    values: JsonObject = {}


class TurnStarted(Event, frozen=True):
    """The agent began to act. `node` is where its graph starts, `graph` the fingerprint of the graph's shape."""

    turn_id: UUID
    node: str
    graph: str


class MessageAppended(Event, frozen=True):
    """Somebody said something. `tokens` counts the content and, of an assistant, the calls that it asks for."""

    role: Literal["user", "assistant"]
    content: str | None
    tokens: int


class ContextAssembled(Event, frozen=True):
    """What the model was about to see: messages by version, from `first` to `last`, and a summary before them.

    `tokens` of at most `limit` count everything: instructions, tools, summary and messages. `summarised` is the last
    version that the summary covers; `pinned` the user's message, where it is older than `first`; 0 if there is none.
    """

    first: int
    last: int
    tokens: int
    limit: int
    summarised: int = 0
    pinned: int = 0


class ModelCalled(Event, frozen=True):
    """A model answered. Tokens are the endpoint's count, or ours where it reports none (`estimated`)."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    duration_ms: int
    finish_reason: str
    estimated: bool = False


class ToolRequested(Event, frozen=True):
    """The last assistant message asks for a tool. The version of this event names the call from now on."""

    call_id: str
    tool: str
    arguments: JsonObject


class ToolStarted(Event, frozen=True):
    """A call is about to run. Written before it does, so that no crash can hide that it may have."""

    call: int


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


class StateUpdated(Event, frozen=True):
    """The thread's values changed, by a JSON merge patch (RFC 7396)."""

    changes: JsonObject


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
    """Messages up to and including version `through` left the live window for a summary. The log keeps them."""

    through: int
    summary: str
    tokens: int


class TurnCompleted(Event, frozen=True):
    """The agent has answered."""

    turn_id: UUID


class TurnFailed(Event, frozen=True):
    """The agent gave up. `reason` is for programs, `detail` for people."""

    turn_id: UUID
    reason: Literal["node_failed", "step_limit", "graph_changed"]
    detail: str


NodeFact: TypeAlias = ContextAssembled | ModelCalled | MessageAppended | ToolRequested | StateUpdated | HistoryCompacted
"""What a node may say happened. All else is said by the runtime."""

EVENTS: tuple[type[Event], ...] = (
    ThreadOpened,
    TurnStarted,
    MessageAppended,
    ContextAssembled,
    ModelCalled,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    ToolFailed,
    ToolOutcomeUnknown,
    StateUpdated,
    NodeCompleted,
    NodeFailed,
    HistoryCompacted,
    TurnCompleted,
    TurnFailed,
)
