"""Answers about points in a thread's history, and about what happened between two of them."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from api.schemas.page import Page
from domain.application.command_handler import checkpoint_of
from domain.application.queries.changes import DescribedEvent
from domain.application.thread_repository import LoadedThread
from domain.thread.diff import Changes, Counts
from domain.thread.diff import Status as StatusThen
from domain.thread.diff import status_of as status_then
from domain.thread.state import Unopened


class PointView(Struct, frozen=True):
    """A point in a thread's history. Version 0 is before the first event, without a checkpoint and a time."""

    version: int
    checkpoint: str | None
    recorded_at: datetime | None
    status: StatusThen


class DiffView(Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """What happened after one point of a thread and up to another.

    `counts` covers the events up to the version `counted_to`, which is before the end if the answer is `truncated`.
    """

    thread_id: UUID
    since: PointView
    until: PointView
    changes: Changes
    counts: Counts
    counted_to: int
    truncated: bool
    happened: Page[DescribedEvent]


def point_view(loaded: LoadedThread) -> PointView:
    """Show the point that a thread is folded up to."""
    if isinstance(loaded.state, Unopened):
        return PointView(0, None, None, "unopened")
    return PointView(loaded.head.version, checkpoint_of(loaded), loaded.head.at, status_then(loaded.state))
