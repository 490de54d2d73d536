"""Routes for auditors: verification of the log, seals, proofs, and the access log."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from litestar import get, post
from litestar.params import FromQuery, PathParameter, QueryParameter

from api.http.authentication import needs
from api.http.params import number_of, range_of, uuid_of
from api.http.problems import READ_PROBLEMS, THREAD_READ_PROBLEMS, problems
from api.routes.dependencies import Cursor, FromReader, FromService, FromThread, Limit
from api.schemas.access_log import AccessView
from api.schemas.page import Page
from api.schemas.seals import ProofView, SealView, VerificationReport, WholeSeal, proof_view
from domain.ids import ThreadId
from domain.ports.access_log import AccessFilter, What

VersionPath = Annotated[str, PathParameter(description="The event's version in its thread.")]
NumberPath = Annotated[str, PathParameter(description="The seal's number, from 1.")]
Since = Annotated[datetime | None, QueryParameter(name="from", description="The first instant, inclusive.")]
Until = Annotated[datetime | None, QueryParameter(name="to", description="The last instant, exclusive.")]

HIGHEST_SEAL = 2**63 - 1


@get(
    "/v1/threads/{thread_id:str}/events/{version:str}/proof",
    tags=["audit"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("audit:read"),
)
async def prove_event(thread: FromThread, version: VersionPath, service: FromService, reader: FromReader) -> ProofView:
    """Prove that an event is in the sealed log. 404 if no seal covers it yet; the detail says when the next is due."""
    return proof_view(await service.audit.prove(thread, number_of(version, "version"), reader))


@get("/v1/audit/reads", tags=["audit"], responses=READ_PROBLEMS, opt=needs("audit:read"))
async def list_reads(
    service: FromService,
    reader: FromReader,
    cursor: Cursor = None,
    limit: Limit = 50,
    since: Since = None,
    until: Until = None,
    thread_id: FromQuery[str | None] = None,
    actor: FromQuery[str | None] = None,
    what: FromQuery[What | None] = None,
) -> Page[AccessView]:
    """List which callers read what of which threads, the newest first."""
    thread = ThreadId(uuid_of(thread_id, "thread_id")) if thread_id is not None else None
    only = AccessFilter(thread, actor, what, *range_of(since, until))
    return await service.access_log.page(reader.tenant, only, cursor, limit)


@get("/v1/seals", tags=["audit"], responses=READ_PROBLEMS, opt=needs("operate"))
async def list_seals(service: FromService, cursor: Cursor = None, limit: Limit = 100) -> Page[SealView]:
    """List the seals of the log, the newest first. Keep copies where writers of this log have no access."""
    return await service.audit.seals(cursor, limit)


@get("/v1/seals/{number:str}", tags=["audit"], responses=THREAD_READ_PROBLEMS, opt=needs("operate"))
async def show_seal(number: NumberPath, service: FromService) -> WholeSeal:
    """Show a seal with the number of events of each slice that it covers."""
    return await service.audit.seal(number_of(number, "number", HIGHEST_SEAL))


@post(
    "/v1/threads/{thread_id:str}/verify",
    status_code=HTTPStatus.OK,
    tags=["audit"],
    responses=THREAD_READ_PROBLEMS,
    opt=needs("audit:read"),
)
async def verify_thread(thread: FromThread, service: FromService, reader: FromReader) -> VerificationReport:
    """Check every hash, version and payload of a thread, and its head."""
    return await service.audit.verify_thread(thread, reader, reader.tenant)


@post(
    "/v1/verify",
    status_code=HTTPStatus.OK,
    tags=["audit"],
    responses=problems(HTTPStatus.CONFLICT),
    opt=needs("operate"),
)
async def verify_log(service: FromService, reader: FromReader) -> VerificationReport:
    """Check the whole log and its seals. It reads everything, so a process does one at a time; otherwise 409."""
    return await service.audit.verify(reader)
