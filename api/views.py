"""What the API answers, as plain structures."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from msgspec import Struct

from domain.agent import Agent
from domain.application.execute import checkpoint_of
from domain.application.journal import Loaded
from domain.chat import ToolCall
from domain.codec import Metadata, Recorded
from domain.events import TurnFailed
from domain.graph import Branch
from domain.ids import Version
from domain.json import JsonObject
from domain.mermaid import mermaid
from domain.state import Ended, Message, Running, Summary, Turn, Unopened
from projections.transcript import FinishedTurn, TranscriptMessage

T = TypeVar("T")


class Accepted(Struct, frozen=True):
    """A turn was started; it runs in the background."""

    status: Literal["processing"]
    thread_id: UUID
    checkpoint: str
    turn_id: UUID


class TurnView(Struct, frozen=True):
    """A turn that has ended, with everything that was said in it, from the user's message on."""

    status: Literal["completed", "failed"]
    thread_id: UUID
    turn_id: UUID
    checkpoint: str
    answer: str | None
    messages: Sequence[TranscriptMessage]
    reason: str | None = None
    detail: str | None = None


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
    status: Literal["idle", "running"]
    graph: str
    values: JsonObject
    summary: Summary | None
    window: Sequence[WindowMessage]
    turns: int
    prompt_tokens: int
    completion_tokens: int
    turn: Turn | None
    last_turn: Ended | None


class EventView(Struct, frozen=True):
    """An event as it was recorded."""

    version: int
    type: str
    recorded_at: datetime
    data: Any
    metadata: Metadata


class Page(Struct, Generic[T], frozen=True):
    """A page of a list. `next_cursor` is null on the last one."""

    items: Sequence[T]
    next_cursor: str | None


class ToolView(Struct, frozen=True):
    """A tool that an agent has."""

    name: str
    description: str
    parameters: JsonObject
    timeout: float
    idempotent: bool


class NodeView(Struct, frozen=True):
    """A node of a graph, and where it leads: one name, or names by label."""

    name: str
    timeout: float
    attempts: int
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
    thread, turn = state.thread, state.turn if isinstance(state, Running) else None
    return StateView(
        thread_id=loaded.thread_id,
        version=loaded.head.version,
        checkpoint=checkpoint_of(loaded),
        recorded_at=loaded.head.at,
        status="running" if turn else "idle",
        graph=thread.graph,
        values=thread.values,
        summary=thread.summary,
        window=[_window_message(message) for message in thread.window],
        turns=thread.turns,
        prompt_tokens=thread.prompt_tokens,
        completion_tokens=thread.completion_tokens,
        turn=turn,
        last_turn=thread.last_turn,
    )


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


def turn_view(loaded: Loaded, finished: FinishedTurn) -> TurnView:
    """Show a turn that has ended. `loaded` is the thread right after it."""
    end = finished.end
    failure = end if isinstance(end, TurnFailed) else None
    said = (m.content for m in reversed(finished.messages) if m.role == "assistant" and m.content is not None)
    return TurnView(
        status="failed" if failure else "completed",
        thread_id=loaded.thread_id,
        turn_id=end.turn_id,
        checkpoint=checkpoint_of(loaded),
        answer=next(said, None),
        messages=finished.messages,
        reason=failure.reason if failure else None,
        detail=failure.detail if failure else None,
    )


def graph_view(agent: Agent) -> GraphView:
    """Show an agent's graph and tools."""
    graph = agent.graph
    nodes = []
    for node in graph.nodes:
        edge = graph.edges[node.name]
        target = edge.targets if isinstance(edge, Branch) else edge
        nodes.append(NodeView(node.name, node.timeout, node.retry.attempts, target))
    tools = [
        ToolView(tool.name, tool.spec.description, tool.spec.parameters, tool.timeout, tool.idempotent)
        for tool in agent.tools
    ]
    return GraphView(graph.name, graph.fingerprint, graph.start, graph.step_limit, nodes, tools, mermaid(graph))
