"""Opening threads, changing their values, and looking at them."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from litestar import Response, get, patch, post
from litestar.params import JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from api.bodies import OpenThread, UpdateValues
from api.callers import Cursor, FromCaller, FromService, FromThread, IfMatch, Limit, etag
from api.preconditions import decode_cursor, seen, version_cursor
from api.views import Opened, Page, StateView, state_view
from domain.application.execute import checkpoint_of
from domain.ids import ThreadId
from domain.ports import ThreadCursor
from projections.threads import ThreadSummary, summary

AtVersion = Annotated[int | None, QueryParameter(description="The version to go back to.")]
AtTime = Annotated[datetime | None, QueryParameter(description="The instant to go back to, with its time zone.")]


@post("/v1/threads", tags=["threads"])
async def open_thread(data: JSONBody[OpenThread], service: FromService, caller: FromCaller) -> Response[Opened]:
    """Open a thread. Opening it again in the same way changes nothing."""
    thread_id = service.thread_id(data.thread_id, caller)
    outcome = await service.open(thread_id, data.graph, data.values, caller)
    checkpoint = checkpoint_of(outcome.loaded)
    status = HTTP_201_CREATED if outcome.events or outcome.repeated else HTTP_200_OK
    body = Opened(thread_id, data.graph, checkpoint)
    return Response(body, status_code=status, headers={**etag(checkpoint), "Location": f"/v1/threads/{thread_id}"})


@patch("/v1/threads/{thread_id:str}/values", tags=["threads"])
async def update_values(
    thread: FromThread, data: JSONBody[UpdateValues], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[StateView]:
    """Change the thread's values by a JSON merge patch."""
    caller = replace(caller, seen=seen(data.checkpoint_ref, if_match))
    outcome = await service.update(ThreadId(thread), data.values, caller)
    view = state_view(outcome.loaded)
    return Response(view, headers=etag(view.checkpoint))


@get("/v1/threads", tags=["threads"])
async def list_threads(service: FromService, caller: FromCaller, cursor: Cursor = None, limit: Limit = 50) -> Page:
    """List threads, the last opened first."""
    place = decode_cursor(cursor, ThreadCursor) if cursor is not None else None
    return await service.threads(caller, place, limit)


@get("/v1/threads/{thread_id:str}", tags=["threads"])
async def show_thread(thread: FromThread, service: FromService, caller: FromCaller) -> Response[ThreadSummary]:
    """Summarise a thread."""
    loaded = await service.existing(ThreadId(thread), caller)
    checkpoint = checkpoint_of(loaded)
    return Response(summary(loaded, checkpoint), headers=etag(checkpoint))


@get("/v1/threads/{thread_id:str}/state", tags=["point in time"])
async def show_state(
    thread: FromThread, service: FromService, caller: FromCaller, at_version: AtVersion = None, at_time: AtTime = None
) -> Response[StateView]:
    """Reconstruct the thread's state: now, at a version, or at an instant."""
    view = state_view(await service.state(ThreadId(thread), caller, at_version, at_time))
    return Response(view, headers=etag(view.checkpoint))


@get("/v1/threads/{thread_id:str}/messages", tags=["point in time"])
async def list_messages(
    thread: FromThread, service: FromService, caller: FromCaller, cursor: Cursor = None, limit: Limit = 100
) -> Page:
    """Read the whole transcript, in pages."""
    return await service.messages(ThreadId(thread), caller, version_cursor(cursor), limit)


@get("/v1/threads/{thread_id:str}/events", tags=["point in time"])
async def list_events(
    thread: FromThread, service: FromService, caller: FromCaller, cursor: Cursor = None, limit: Limit = 100
) -> Page:
    """Read the thread's events as they were recorded, in pages."""
    return await service.events(ThreadId(thread), caller, version_cursor(cursor), limit)
