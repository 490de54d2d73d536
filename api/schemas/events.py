"""Answers with events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from domain.ids import slice_of
from domain.thread.codec import Metadata, Recorded


class EventView(Struct, frozen=True):
    """An event as it was recorded."""

    version: int
    type: str
    recorded_at: datetime
    data: Any
    metadata: Metadata


class FeedItem(Struct, frozen=True):
    """An event of the feed, with its thread and its position in its slice."""

    thread_id: UUID
    slice: int
    position: int
    version: int
    type: str
    recorded_at: datetime
    data: Any
    metadata: Metadata


class FeedPage(Struct, frozen=True):
    """The events after a cursor, and the cursor for the next page. `more`: read that page without waiting."""

    items: Sequence[FeedItem]
    next_cursor: str
    more: bool


def event_view(recorded: Recorded) -> EventView:
    """Show a recorded event."""
    kind = type(recorded.event).__name__
    return EventView(recorded.version, kind, recorded.recorded_at, recorded.event, recorded.metadata)


def feed_item(recorded: Recorded) -> FeedItem:
    """Show a recorded event with its position in the log."""
    view = event_view(recorded)
    place = (recorded.thread_id, slice_of(recorded.thread_id), recorded.position)
    return FeedItem(*place, view.version, view.type, view.recorded_at, view.data, view.metadata)
