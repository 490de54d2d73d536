"""Routes for a thread's history: its state, messages and events at a version or an instant, and diffs."""

from datetime import datetime
from typing import Annotated

from litestar import Response, get
from litestar.params import QueryParameter

from api.http.authentication import needs
from api.http.problems import THREAD_READ_PROBLEMS
from api.routes.dependencies import Cursor, FromReader, FromService, FromThread, FromTurn, Limit, tagged
from api.schemas.events import EventView
from api.schemas.history import DiffView
from api.schemas.page import Page
from api.schemas.prompts import ContextView
from api.schemas.state import StateView, state_view
from api.services.history import Order, PageRequest, PointInTime
from domain.application.queries.transcript import TranscriptMessage
from domain.ids import MAX_VERSION

AtVersion = Annotated[int | None, QueryParameter(description="Show the thread as of this version.")]
AtTime = Annotated[datetime | None, QueryParameter(description="Show the thread as of this instant, with a time zone.")]
InOrder = Annotated[Order, QueryParameter(description="Oldest first (asc) or latest first (desc).")]
AfterPrompt = Annotated[
    int,
    QueryParameter(ge=0, le=MAX_VERSION, description="Only prompts after this version: a page's next_after."),
]
Since = Annotated[
    int | None, QueryParameter(name="from", description="Begin after this version; 0 is before the first event.")
]
Until = Annotated[int | None, QueryParameter(description="End with this version. Default: now.")]
SinceTime = Annotated[
    datetime | None,
    QueryParameter(description="Begin after this instant, with a time zone, instead of `from`."),
]
UntilTime = Annotated[
    datetime | None,
    QueryParameter(description="End with this instant, with a time zone, instead of `to`."),
]


@get(
    "/v1/threads/{thread_id:str}/state",
    tags=["point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def show_state(
    thread: FromThread, service: FromService, reader: FromReader, at_version: AtVersion = None, at_time: AtTime = None
) -> Response[StateView]:
    """Show the thread's state: now, at a version, or at an instant."""
    return tagged(state_view(await service.history.state(thread, PointInTime(at_version, at_time), reader)))


@get(
    "/v1/threads/{thread_id:str}/context/{turn_id:str}",
    tags=["point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def show_context(
    thread: FromThread, turn: FromTurn, service: FromService, reader: FromReader, after: AfterPrompt = 0
) -> ContextView:
    """Show the prompts of a turn: each piece with its tokens and why it was there."""
    return await service.history.prompts(thread, turn, reader, after)


@get(
    "/v1/threads/{thread_id:str}/messages",
    tags=["point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def list_messages(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    at_version: AtVersion = None,
    at_time: AtTime = None,
    order: InOrder = "asc",
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[TranscriptMessage]:
    """List the thread's messages, up to now, a version or an instant, in pages."""
    asked = PageRequest(limit, None, PointInTime(at_version, at_time), order, cursor)
    return await service.history.messages(thread, asked, reader)


@get(
    "/v1/threads/{thread_id:str}/events",
    tags=["point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def list_events(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    at_version: AtVersion = None,
    at_time: AtTime = None,
    order: InOrder = "asc",
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[EventView]:
    """List the thread's events as they were recorded, up to now, a version or an instant, in pages."""
    asked = PageRequest(limit, None, PointInTime(at_version, at_time), order, cursor)
    return await service.history.events(thread, asked, reader)


@get(
    "/v1/threads/{thread_id:str}/diff",
    tags=["point in time"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("threads:read"),
)
async def show_diff(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    since: Since = None,
    to: Until = None,
    from_time: SinceTime = None,
    to_time: UntilTime = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> DiffView:
    """Show what happened between two versions or instants: the changes, in numbers, and in sentences."""
    begin = PointInTime(since, from_time, "from", "from_time")
    end = PointInTime(to, to_time, "to", "to_time")
    return await service.history.diff(thread, begin, end, limit, cursor, reader)
