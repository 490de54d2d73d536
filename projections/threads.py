"""Threads at a glance: the list of a tenant's threads, and one thread's summary."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.application.journal import Loaded
from domain.ids import ThreadId, Version
from domain.ports import ThreadRow
from domain.state import Ended, Running, State, Unopened

Status: TypeAlias = Literal["idle", "running", "waiting"]
"""`waiting`: a turn cannot go on before a person decides."""


class ThreadEntry(Struct, frozen=True):
    """A thread in a list."""

    thread_id: ThreadId
    status: Status
    version: Version
    opened_at: datetime
    last_event_at: datetime


class ThreadSummary(Struct, frozen=True):
    """A thread and what it has cost so far."""

    thread_id: ThreadId
    graph: str
    status: Status
    version: Version
    checkpoint: str
    last_event_at: datetime
    turns: int
    prompt_tokens: int
    completion_tokens: int
    running_turn: UUID | None
    queued_turns: Sequence[UUID]
    last_turn: Ended | None


def entry(row: ThreadRow) -> ThreadEntry:
    """Describe a thread by its row alone."""
    return ThreadEntry(row.thread_id, status_of(row), row.head.version, row.opened_at, row.head.at)


def status_of(of: ThreadRow | State) -> Status:
    """Say what a thread is doing."""
    if of.waiting:
        return "waiting"
    return "running" if of.in_turn else "idle"


def summary(loaded: Loaded, checkpoint: str) -> ThreadSummary:
    """Describe a folded thread. Raise `TypeError` if it was never opened."""
    state = loaded.state
    if isinstance(state, Unopened):
        raise TypeError("An unopened thread has no summary")
    thread, running = state.thread, state.turn.turn_id if isinstance(state, Running) else None
    return ThreadSummary(
        thread_id=loaded.thread_id,
        graph=thread.graph,
        status=status_of(state),
        version=loaded.head.version,
        checkpoint=checkpoint,
        last_event_at=loaded.head.at,
        turns=thread.turns,
        prompt_tokens=thread.prompt_tokens,
        completion_tokens=thread.completion_tokens,
        running_turn=running,
        queued_turns=[queued.turn_id for queued in thread.queue],
        last_turn=thread.last_turn,
    )
