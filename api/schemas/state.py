"""Answers with a thread's state."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from api.schemas.view import view_of
from domain.application.command_handler import checkpoint_of
from domain.application.thread_repository import LoadedThread
from domain.ids import Version
from domain.json import JsonObject
from domain.models.chat import OutputFormat, ToolCall
from domain.thread.events import Durability
from domain.thread.state import Call, Ended, Item, Message, Queued, Running, Summary, Turn, Unopened
from projections.engine.thread_status import Status, status_of


class Forked(Struct, frozen=True):
    """A fork: a thread that shares another one's events up to a version."""

    thread_id: UUID
    parent: UUID
    at_version: int
    status: Status
    checkpoint: str


class TurnInProgress(Struct, frozen=True, omit_defaults=True):
    """The turn in progress; see `domain.thread.state.Turn`."""

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
    more_items: Sequence[Sequence[Item]] = ()
    agent_version: str = ""
    output: OutputFormat | None = None


class Opened(Struct, frozen=True):
    """An open thread."""

    thread_id: UUID
    graph: str
    checkpoint: str


class WindowMessage(Struct, frozen=True, omit_defaults=True):
    """A message of the live window, with the transcript's field names."""

    version: Version
    role: Literal["user", "assistant", "tool"]
    content: str | None
    tokens: int
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class StateView(Struct, frozen=True):
    """A thread's folded state at a version."""

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
    subject: str


def state_view(loaded: LoadedThread) -> StateView:
    """Show a folded thread. Raises `TypeError` if it was never opened."""
    state = loaded.state
    if isinstance(state, Unopened):
        raise TypeError("An unopened thread has no state to show")
    thread = state.thread
    return view_of(
        StateView,
        thread,
        thread_id=loaded.thread_id,
        version=loaded.head.version,
        checkpoint=checkpoint_of(loaded),
        recorded_at=loaded.head.at,
        status=status_of(state),
        window=[_window_message(message) for message in thread.window],
        turn=_turn_in_progress(state.turn) if isinstance(state, Running) else None,
    )


def _turn_in_progress(turn: Turn) -> TurnInProgress:
    calls = [replace(call, request=_shown(call.request), place=0) for call in turn.calls]
    return view_of(TurnInProgress, turn, calls=calls)


def _shown(call: ToolCall) -> ToolCall:
    """Omit the fields that only the model's endpoint understands."""
    return replace(call, extra={})


def _window_message(message: Message) -> WindowMessage:
    tool_calls = tuple(map(_shown, message.tool_calls))
    return view_of(WindowMessage, message, tool_calls=tool_calls, tool_call_id=message.call_id)
