"""Opening threads, changing their values, and looking at them."""

from litestar import Response, get, patch, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody
from litestar.status_codes import (
    HTTP_200_OK,
    HTTP_201_CREATED,
    HTTP_404_NOT_FOUND,
    HTTP_409_CONFLICT,
    HTTP_412_PRECONDITION_FAILED,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_503_SERVICE_UNAVAILABLE,
)

from api.bodies import OpenThread, UpdateValues
from api.callers import Cursor, FromCaller, FromReader, FromService, FromThread, IfMatch, Limit, etag, expecting
from api.preconditions import decode_cursor
from api.problems import problems
from api.views import Opened, Page, StateView, state_view
from domain.application.execute import checkpoint_of
from domain.ids import ThreadId
from domain.ports import ThreadCursor
from projections.threads import ThreadEntry, ThreadSummary, summary

OPENING = {
    HTTP_200_OK: ResponseSpec(Opened, generate_examples=False, description="It was open in just this way."),
    **problems(
        HTTP_409_CONFLICT,
        HTTP_413_REQUEST_ENTITY_TOO_LARGE,
        HTTP_415_UNSUPPORTED_MEDIA_TYPE,
        HTTP_422_UNPROCESSABLE_ENTITY,
        HTTP_503_SERVICE_UNAVAILABLE,
    ),
}
UPDATING = problems(
    HTTP_404_NOT_FOUND,
    HTTP_412_PRECONDITION_FAILED,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_503_SERVICE_UNAVAILABLE,
)
LISTING = problems(HTTP_503_SERVICE_UNAVAILABLE)
READING = problems(HTTP_404_NOT_FOUND, HTTP_503_SERVICE_UNAVAILABLE)


@post("/v1/threads", tags=["threads"], responses=OPENING)
async def open_thread(data: JSONBody[OpenThread], service: FromService, caller: FromCaller) -> Response[Opened]:
    """Open a thread. Opening it again in the same way changes nothing."""
    thread_id = service.thread_id(data.thread_id, caller)
    outcome = await service.open(thread_id, data.graph, data.values, caller)
    checkpoint = checkpoint_of(outcome.loaded)
    status = HTTP_201_CREATED if outcome.events or outcome.repeated else HTTP_200_OK
    body = Opened(thread_id, data.graph, checkpoint)
    return Response(body, status_code=status, headers={**etag(checkpoint), "Location": f"/v1/threads/{thread_id}"})


@patch("/v1/threads/{thread_id:str}/values", tags=["threads"], responses=UPDATING)
async def update_values(
    thread: FromThread, data: JSONBody[UpdateValues], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[StateView]:
    """Change the thread's values by a JSON merge patch."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    outcome = await service.update(ThreadId(thread), data.values, caller)
    view = state_view(outcome.loaded)
    return Response(view, headers=etag(view.checkpoint))


@get("/v1/threads", tags=["threads"], responses=LISTING)
async def list_threads(
    service: FromService, reader: FromReader, cursor: Cursor = None, limit: Limit = 50
) -> Page[ThreadEntry]:
    """List threads, the last opened first."""
    place = decode_cursor(cursor, ThreadCursor) if cursor is not None else None
    return await service.threads(reader, place, limit)


@get("/v1/threads/{thread_id:str}", tags=["threads"], responses=READING)
async def show_thread(thread: FromThread, service: FromService, reader: FromReader) -> Response[ThreadSummary]:
    """Summarise a thread."""
    loaded = await service.existing(ThreadId(thread), reader)
    checkpoint = checkpoint_of(loaded)
    return Response(summary(loaded, checkpoint), headers=etag(checkpoint))
