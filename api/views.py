"""What the API answers, as plain structures."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from msgspec import Struct

from domain.agent import Agent
from domain.application.execute import checkpoint_of
from domain.application.journal import Loaded
from domain.chat import ToolCall
from domain.codec import Metadata, Recorded
from domain.diff import Changes, Counts
from domain.diff import Status as StatusThen
from domain.diff import status_of as status_then
from domain.events import Durability, TurnCancelled, TurnCompleted, TurnEnd, TurnFailed, TurnRolledBack
from domain.ids import Version, slice_of
from domain.json import JsonObject
from domain.mermaid import mermaid
from domain.ports import WorkerRow
from domain.state import Call, Ended, Item, Message, Queued, Running, State, Summary, Turn, Unopened
from domain.tools import Tool
from projections.diff import Happened
from projections.status import Status, status_of
from projections.transcript import FinishedTurn, TranscriptMessage

T = TypeVar("T")

TurnStatus: TypeAlias = Literal["completed", "failed", "cancelled", "rolled_back"]


class Accepted(Struct, frozen=True):
    """A turn was started, or waits for the end of the one that runs; it goes on in the background."""

    status: Literal["processing", "enqueued"]
    thread_id: UUID
    checkpoint: str
    turn_id: UUID


class TurnView(Struct, frozen=True):
    """A turn that has ended, with everything that was said in it, from the user's message on."""

    status: TurnStatus
    thread_id: UUID
    turn_id: UUID
    checkpoint: str
    answer: str | None
    messages: Sequence[TranscriptMessage]
    reason: str | None = None
    detail: str | None = None


class Cancelling(Struct, frozen=True):
    """A turn is to end: it has ended already (`cancelled`), or does as soon as whoever runs it hears of it."""

    status: Literal["cancelling", "cancelled"]
    thread_id: UUID
    turn_id: UUID
    checkpoint: str


class ApprovalView(Struct, frozen=True):
    """Something that waits for a person: a tool call, or a node of the graph."""

    approval_id: int
    """The name to decide under: of a call, its version."""
    hash: str
    """Names what is shown here. A decision repeats it, so that it is about nothing else."""
    because: Literal["policy", "outcome_unknown"]
    node: str
    tool: str | None = None
    call_id: str | None = None
    arguments: JsonObject | None = None


class Decided(Struct, frozen=True):
    """A decision was recorded."""

    thread_id: UUID
    approval_id: int
    decision: Literal["granted", "denied", "settled"]
    checkpoint: str


class Forked(Struct, frozen=True):
    """A thread that began as another one was. Its versions go on from there."""

    thread_id: UUID
    parent: UUID
    at_version: int
    status: Status
    checkpoint: str


class WorkerView(Struct, frozen=True):
    """A process that runs turns, and the shards whose turns they are."""

    worker_id: UUID
    name: str
    started_at: datetime
    seen_at: datetime
    standby: bool
    shards: Sequence[int]


class TurnInProgress(Struct, frozen=True, omit_defaults=True):
    """The turn in progress; see `domain.state.Turn`."""

    turn_id: UUID
    graph: str
    started: int
    node: str
    step: int
    attempt: int
    run: int
    durability: Durability
    calls: Sequence[Call]
    prompt_tokens: int
    prompt_limit: int
    cancelling: str | None = None
    items: Sequence[Item] | None = None


class Opened(Struct, frozen=True):
    """An open thread."""

    thread_id: UUID
    graph: str
    checkpoint: str


class WindowMessage(Struct, frozen=True, omit_defaults=True):
    """A message of the live window, with the transcript's names."""

    version: Version
    role: Literal["user", "assistant", "tool"]
    content: str | None
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class StateView(Struct, frozen=True):
    """A thread's folded state at a version: what the agent knows, and what it is doing."""

    thread_id: UUID
    version: int
    checkpoint: str
    recorded_at: datetime
    status: Status
    graph: str
    values: JsonObject
    summary: Summary | None
    window: Sequence[WindowMessage]
    turns: int
    prompt_tokens: int
    completion_tokens: int
    turn: TurnInProgress | None
    last_turn: Ended | None
    queue: Sequence[Queued]


class EventView(Struct, frozen=True):
    """An event as it was recorded."""

    version: int
    type: str
    recorded_at: datetime
    data: Any
    metadata: Metadata


class FeedItem(Struct, frozen=True):
    """An event of the feed: which thread's, and where in its slice."""

    thread_id: UUID
    slice: int
    position: int
    version: int
    type: str
    recorded_at: datetime
    data: Any
    metadata: Metadata


class FeedPage(Struct, frozen=True):
    """What came after a cursor, and the cursor to go on with. `more`: there is more already, so do not wait."""

    items: Sequence[FeedItem]
    next_cursor: str
    more: bool


class Page(Struct, Generic[T], frozen=True):
    """A page of a list. `next_cursor` is null on the last one."""

    items: Sequence[T]
    next_cursor: str | None


class PointView(Struct, frozen=True):
    """Where a thread was. Version 0 is before its first event: that has no checkpoint and no time."""

    version: int
    checkpoint: str | None
    recorded_at: datetime | None
    status: StatusThen


class DiffView(Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """What happened between two points of a thread: the first is excluded, the second included.

    `counts` are of the events up to `counted_to`; that is before the end if the answer is `truncated`.
    """

    thread_id: UUID
    since: PointView
    until: PointView
    changes: Changes
    counts: Counts
    counted_to: int
    truncated: bool
    happened: Page[Happened]


class ToolView(Struct, frozen=True):
    """A tool that an agent has."""

    name: str
    description: str
    parameters: JsonObject
    timeout: float
    idempotent: bool
    after_crash: Literal["retry", "ask_model", "ask_person"]
    approval: Literal["always", "never", "depends"]


class NodeView(Struct, frozen=True):
    """A node of a graph, and where it leads: one name, or names by label."""

    name: str
    timeout: float
    attempts: int
    approval: bool
    next: str | Mapping[str, str]


class GraphView(Struct, frozen=True):
    """An agent's graph."""

    name: str
    fingerprint: str
    start: str
    step_limit: int
    nodes: Sequence[NodeView]
    tools: Sequence[ToolView]
    mermaid: str


class Health(Struct, frozen=True, omit_defaults=True):
    """Whether the process lives, and whether it can serve."""

    status: Literal["alive", "ready", "unready"]
    detail: str | None = None


def state_view(loaded: Loaded) -> StateView:
    """Show a folded thread. Raise `TypeError` if it was never opened."""
    state = loaded.state
    if isinstance(state, Unopened):
        raise TypeError("An unopened thread has no state to show")
    thread = state.thread
    return StateView(
        thread_id=loaded.thread_id,
        version=loaded.head.version,
        checkpoint=checkpoint_of(loaded),
        recorded_at=loaded.head.at,
        status=status_of(state),
        graph=thread.graph,
        values=thread.values,
        summary=thread.summary,
        window=[_window_message(message) for message in thread.window],
        turns=thread.turns,
        prompt_tokens=thread.prompt_tokens,
        completion_tokens=thread.completion_tokens,
        turn=_turn_in_progress(state.turn) if isinstance(state, Running) else None,
        last_turn=thread.last_turn,
        queue=thread.queue,
    )


def point_view(loaded: Loaded) -> PointView:
    """Show where a folded thread is."""
    if isinstance(loaded.state, Unopened):
        return PointView(0, None, None, "unopened")
    return PointView(loaded.head.version, checkpoint_of(loaded), loaded.head.at, status_then(loaded.state))


def _turn_in_progress(turn: Turn) -> TurnInProgress:
    return TurnInProgress(**{name: getattr(turn, name) for name in TurnInProgress.__struct_fields__})


def waiting_approvals(state: State) -> Sequence[ApprovalView]:
    """Show what waits for a person."""
    if not isinstance(state, Running) or state.turn.cancelling:
        return ()
    turn, approval = state.turn, state.turn.approval
    calls = [
        ApprovalView(
            c.version,
            c.hash,
            c.because,
            turn.node,
            tool=c.request.name,
            call_id=c.request.id,
            arguments=c.request.arguments,
        )
        for c in turn.calls
        if c.status == "asked"
    ]
    if approval and not approval.granted:
        return [ApprovalView(approval.version, approval.hash, "policy", turn.node), *calls]
    return calls


def worker_view(row: WorkerRow) -> WorkerView:
    """Show a worker."""
    return WorkerView(row.id, row.name, row.started_at, row.seen_at, row.standby, row.shards)


def _window_message(message: Message) -> WindowMessage:
    return WindowMessage(
        message.version,
        message.role,
        message.content,
        message.tokens,
        message.tool_calls,
        tool_call_id=message.call_id,
        name=message.name,
    )


def event_view(recorded: Recorded) -> EventView:
    """Show a recorded event."""
    kind = type(recorded.event).__name__
    return EventView(recorded.version, kind, recorded.recorded_at, recorded.event, recorded.metadata)


def feed_item(recorded: Recorded) -> FeedItem:
    """Show a recorded event with its place in the log."""
    view = event_view(recorded)
    place = (recorded.thread_id, slice_of(recorded.thread_id), recorded.position)
    return FeedItem(*place, view.version, view.type, view.recorded_at, view.data, view.metadata)


def turn_view(loaded: Loaded, finished: FinishedTurn) -> TurnView:
    """Show a turn that has ended. `loaded` is the thread right after it."""
    end = finished.end
    said = (m.content for m in reversed(finished.messages) if m.role == "assistant" and m.content is not None)
    return TurnView(
        status=_STATUS[type(end)],
        thread_id=loaded.thread_id,
        turn_id=end.turn_id,
        checkpoint=checkpoint_of(loaded),
        answer=next(said, None),
        messages=finished.messages,
        reason=_reason(end),
        detail=end.detail if isinstance(end, TurnFailed) else None,
    )


_STATUS: Mapping[type[TurnEnd], TurnStatus] = {
    TurnCompleted: "completed",
    TurnFailed: "failed",
    TurnCancelled: "cancelled",
    TurnRolledBack: "rolled_back",
}


def _reason(end: TurnEnd) -> str | None:
    match end:
        case TurnFailed(reason=reason):
            return reason
        case TurnCancelled(how=how):
            return how
        case _:
            return None


def _approval(tool: Tool) -> Literal["always", "never", "depends"]:
    if isinstance(tool.approval, bool):
        return "always" if tool.approval else "never"
    return "depends"


def graph_view(agent: Agent) -> GraphView:
    """Show an agent's graph and tools."""
    graph = agent.graph
    nodes = []
    for node in graph.by_name.values():
        targets = {label: target for source, label, target in graph.arrows() if source == node.name}
        following = targets[""] if targets.keys() == {""} else targets
        nodes.append(NodeView(node.name, node.timeout, node.retry.attempts, node.approval, following))
    tools = [
        ToolView(
            tool.name,
            tool.spec.description,
            tool.spec.parameters,
            tool.timeout,
            tool.idempotent,
            tool.after_crash,
            _approval(tool),
        )
        for tool in agent.tools
    ]
    return GraphView(graph.name, graph.fingerprint, graph.first, graph.step_limit, nodes, tools, mermaid(graph))
