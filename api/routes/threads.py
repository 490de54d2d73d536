"""Routes for opening threads, changing their values, listing and summarising them."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from litestar import Response, get, patch, post
from litestar.openapi import ResponseSpec
from litestar.params import FromQuery, JSONBody, QueryParameter

from api.http.authentication import needs
from api.http.params import names_in, range_of
from api.http.problems import READ_PROBLEMS, THREAD_READ_PROBLEMS, UPDATE_PROBLEMS, problems
from api.routes.analytics import Fresh, MinVersion, wait_until_current
from api.routes.dependencies import (
    Cursor,
    FromCaller,
    FromReader,
    FromService,
    FromThread,
    IfMatch,
    Limit,
    expecting,
    tagged,
)
from api.routes.history import AtTime, AtVersion
from api.schemas.page import Page
from api.schemas.requests import OpenThread, UpdateValues, limit_of
from api.schemas.state import Opened, StateView, state_view
from api.services.history import PointInTime
from api.services.read_models import Consistency, Filters
from api.services.threads import Opening
from domain.application.command_handler import checkpoint_of
from domain.ids import MAX_VERSION
from projections.threads import OUTCOMES, REASONS, Sort, ThreadSummary

LeastVersion = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_VERSION, description="With eventual: wait for this version of the thread."),
]
OPENING = {
    HTTPStatus.OK: ResponseSpec(
        Opened, generate_examples=False, description="The thread was already open in this way."
    ),
    **problems(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, body=True),
}
STATUSES = ("idle", "running", "waiting")


@post("/v1/threads", tags=["threads"], responses=OPENING, opt=needs("threads:write"))
async def open_thread(data: JSONBody[OpenThread], service: FromService, caller: FromCaller) -> Response[Opened]:
    """Open a thread. Opening it again in the same way has no effect."""
    thread_id = service.thread_id(data.thread_id, caller)
    opening = Opening(subject=data.subject, limits=tuple(map(limit_of, data.limits)))
    outcome = await service.open(thread_id, data.graph, data.values, caller, opening)
    status = HTTPStatus.CREATED if outcome.events or outcome.repeated else HTTPStatus.OK
    body = Opened(thread_id, data.graph, checkpoint_of(outcome.loaded))
    return tagged(body, status, Location=f"/v1/threads/{thread_id}")


@patch("/v1/threads/{thread_id:str}/values", tags=["threads"], responses=UPDATE_PROBLEMS, opt=needs("threads:write"))
async def update_values(
    thread: FromThread, data: JSONBody[UpdateValues], service: FromService, caller: FromCaller, if_match: IfMatch = None
) -> Response[StateView]:
    """Change the thread's values by a JSON merge patch."""
    caller = expecting(caller, data.checkpoint_ref, if_match)
    outcome = await service.update(thread, data.values, caller)
    if not outcome.events:  # no event records the caller, so the access log must
        await service.access_log.record_thread(caller, "state", thread)
    return tagged(state_view(outcome.loaded))


@get("/v1/threads", tags=["threads"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def list_threads(
    service: FromService,
    reader: FromReader,
    cursor: Cursor = None,
    limit: Limit = 50,
    status: Annotated[str, QueryParameter(description="idle, running, waiting; several separated by commas.")] = "",
    outcome: Annotated[
        str,
        QueryParameter(description=f"How the last turn ended: {', '.join(OUTCOMES)}; several separated by commas."),
    ] = "",
    reason: Annotated[
        str, QueryParameter(description="The reason of the last turn, such as length; several separated by commas.")
    ] = "",
    graph: FromQuery[str | None] = None,
    search: Annotated[
        str | None,
        QueryParameter(
            description="Words that are all in one message of the thread, in any form. If there is no such thread: "
            "half of three words or more, and of a question (with a question mark) as many as possible."
        ),
    ] = None,
    title: Annotated[str | None, QueryParameter(description="The beginning of the title.")] = None,
    active_since: Annotated[datetime | None, QueryParameter(description="The earliest time of the last event.")] = None,
    active_before: Annotated[datetime | None, QueryParameter(description="The last event was before this.")] = None,
    sort: FromQuery[Sort] = "opened_at",
    order: FromQuery[Literal["asc", "desc"]] = "desc",
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> Page[ThreadSummary]:
    """List threads that match the filters, by default the last opened first."""
    await wait_until_current(service, reader, "threads", consistency, min_version)
    if search is not None:
        await wait_until_current(service, reader, "messages", consistency, min_version)
    since, before = range_of(active_since, active_before, "active_since", "active_before")
    status_names, outcomes = names_in(status, "status", STATUSES), names_in(outcome, "outcome", OUTCOMES)
    reasons, descending = names_in(reason, "reason", REASONS), order == "desc"
    filters = Filters(status_names, outcomes, reasons, graph, search, title, sort, descending, since, before)
    return await service.reading.threads(filters, cursor, limit, reader)


@get("/v1/threads/{thread_id:str}", tags=["threads"], responses=THREAD_READ_PROBLEMS, opt=needs("threads:read"))
async def show_thread(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    at_version: AtVersion = None,
    at_time: AtTime = None,
    min_version: LeastVersion = None,
    consistency: FromQuery[Consistency] = "strong",
) -> Response[ThreadSummary]:
    """Summarise a thread: now, at a version, or at an instant; with `eventual`, by the read model."""
    point = PointInTime(at_version, at_time)
    if consistency == "strong" or point.given:
        return tagged(await service.history.summary(thread, reader, point))
    if min_version is not None:
        await service.reading.seen("threads", reader.tenant, thread, min_version)
    return tagged(await service.reading.thread(thread, reader))
