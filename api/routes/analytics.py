"""Routes of the read models: sums by the hour, spending, the audit; and the projections' administration."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.authentication import needs
from api.http.caller import Caller
from api.http.params import in_utc, names_in, range_of, uuid_of
from api.http.problems import READ_PROBLEMS, THREAD_READ_PROBLEMS, problems
from api.routes.dependencies import Cursor, FromReader, FromService, FromThread, Limit
from api.schemas import read_models as views
from api.schemas.page import Page
from api.schemas.requests import Rebuild
from api.services.read_models import Consistency, HourRange, given
from api.services.threads import Service
from domain.errors import InvalidInput
from domain.ids import ThreadId, slice_of
from domain.read_models.queries import Bucket, Where
from domain.windows import Window

Since = Annotated[datetime | None, QueryParameter(name="from", description="The first hour.")]
Until = Annotated[datetime | None, QueryParameter(name="to", description="The hour after the last one.")]
Width = Annotated[Bucket | None, QueryParameter(description="The width of time to add up by, in UTC.")]
GroupBy = Annotated[str, QueryParameter(description="Names to group by, separated by commas.")]
Fresh = Annotated[Consistency, QueryParameter(description="strong: wait until the answer includes what is stored now.")]
MinVersion = Annotated[
    str | None, QueryParameter(description="Wait until the answer includes this: a thread's id, a colon, a version.")
]
STANDINGS: tuple[views.Standing, ...] = ("open", "running", "waiting", "over_budget")
ADMIN_PROBLEMS = problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
REBUILD_PROBLEMS = problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, body=True)


async def wait_until_current(
    service: Service, reader: Caller, projection: str, consistency: Consistency, min_version: str | None
) -> None:
    """Wait until a projection includes what the caller asks for. Raises `BehindLog`, `InvalidInput`."""
    if min_version is not None:
        thread, colon, version = min_version.partition(":")
        if not (colon and version.isdecimal() and len(version) < len("2147483648")):
            raise InvalidInput("min_version", "expected a thread's id, a colon and a version, such as 7b2f...:12")
        thread_id = ThreadId(uuid_of(thread, "min_version"))
        await service.reading.seen(projection, reader.tenant, thread_id, int(version))
    if consistency == "strong":
        await service.reading.fresh(projection)


@get("/v1/usage", tags=["read models"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def usage(
    service: FromService,
    reader: FromReader,
    since: Since = None,
    until: Until = None,
    bucket: Width = None,
    group_by: GroupBy = "",
    graph: FromQuery[str | None] = None,
    node: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> views.Sums:
    """Sum up model calls: their number, tokens, cost, and percentiles of their durations."""
    await wait_until_current(service, reader, "usage", consistency, min_version)
    span = _span(since, until, bucket, group_by, graph=graph, node=node, model=model)
    return await service.reading.sums("usage", reader.tenant, span)


@get("/v1/analytics/{subject:str}", tags=["read models"], responses=THREAD_READ_PROBLEMS, opt=needs("threads:read"))
async def analytics(
    subject: FromPath[Literal["nodes", "tools", "turns"]],
    service: FromService,
    reader: FromReader,
    since: Since = None,
    until: Until = None,
    bucket: Width = None,
    group_by: GroupBy = "",
    graph: FromQuery[str | None] = None,
    node: FromQuery[str | None] = None,
    tool: FromQuery[str | None] = None,
    reason: FromQuery[str | None] = None,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> views.Sums:
    """Sum up nodes, tools or turns: counts, failures, retries, and percentiles of their durations."""
    await wait_until_current(service, reader, subject, consistency, min_version)
    span = _span(since, until, bucket, group_by, graph=graph, node=node, tool=tool, reason=reason)
    return await service.reading.sums(subject, reader.tenant, span)


@get("/v1/budgets", tags=["read models"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def list_budgets(
    service: FromService,
    reader: FromReader,
    window: FromQuery[Window] = "month",
    at: FromQuery[datetime | None] = None,
    limit: Limit = 1_000,
    group_by: GroupBy = "",
    thread_id: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    graph: FromQuery[str | None] = None,
    subject: FromQuery[str | None] = None,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> Sequence[views.Spent]:
    """Return the spending of a window of time: in total, by thread, subject, agent or model, the largest first."""
    await wait_until_current(service, reader, "budgets", consistency, min_version)
    by = names_in(group_by, "group_by", ("thread_id", "subject", "graph", "model"))
    named = {"model": model, "graph": graph, "subject": subject}
    only: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if thread_id is not None:
        only["thread_id"] = uuid_of(thread_id, "thread_id")
    instant = in_utc(at, "at") or datetime.now(UTC)
    return await service.reading.spent(reader.tenant, window, instant, by, only, limit)


@get("/v1/instant", tags=["point in time"], responses=READ_PROBLEMS, opt=needs("threads:read"))
async def instant(
    at: FromQuery[datetime],
    service: FromService,
    reader: FromReader,
    status: Annotated[views.Standing | None, QueryParameter(description="Only these; a cursor needs it.")] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
    consistency: Fresh = "eventual",
) -> views.Instant:
    """Return the threads that were open, ran, waited, or were over budget at an instant, the longest first."""
    if cursor is not None and status is None:
        raise InvalidInput("cursor", "continues one list: give its status, too")
    moment = in_utc(at, "at")
    statuses = STANDINGS if status is None else (status,)
    for projection in {"threads" if name == "open" else "spells" for name in statuses}:
        await wait_until_current(service, reader, projection, consistency, None)
    reading, tenant = service.reading, reader.tenant
    return views.Instant(
        moment, **{name: await reading.at_instant(tenant, name, moment, cursor, limit) for name in statuses}
    )


@get("/v1/audit", tags=["audit"], responses=READ_PROBLEMS, opt=needs("audit:read"))
async def list_audit(
    service: FromService,
    reader: FromReader,
    cursor: Cursor = None,
    limit: Limit = 50,
    since: Since = None,
    until: Until = None,
    thread_id: FromQuery[str | None] = None,
    command: FromQuery[str | None] = None,
    correlation: FromQuery[str | None] = None,
    actor: FromQuery[str | None] = None,
    by: FromQuery[Literal["caller", "agent"] | None] = None,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> Page[views.AuditEntry]:
    """Return the commands and what they changed, and what the agent did because of them, the latest first."""
    await wait_until_current(service, reader, "audit", consistency, min_version)
    thread = ThreadId(uuid_of(thread_id, "thread_id")) if thread_id is not None else None
    command_id = uuid_of(command, "command") if command is not None else None
    first, last = range_of(since, until)
    where = given(
        Where("slice", "=", slice_of(thread) if thread else None),
        Where("thread_id", "=", thread),
        Where("command", "=", command_id),
        Where("correlation", "=", correlation),
        Where("actor", "=", actor),
        Where("by", "=", by),
        Where("at", ">=", first),
        Where("at", "<", last),
    )
    return await service.reading.audit(reader.tenant, where, cursor, limit)


@get("/v1/projections", tags=["read models"], responses=READ_PROBLEMS, opt=needs("operate"))
async def list_projections(service: FromService) -> Sequence[views.ProjectionView]:
    """Return each projection's progress, its instances, and the number of its parked threads."""
    return await service.projection_admin.projections()


@get("/v1/projections/parked", tags=["read models"], responses=READ_PROBLEMS, opt=needs("operate"))
async def list_parked(service: FromService) -> Sequence[views.ParkedView]:
    """Return the threads that projections leave out since an event that they could not process."""
    return await service.projection_admin.parked()


@post(
    "/v1/projections/{name:str}/parked/{thread_id:str}/{decision:str}",
    status_code=HTTPStatus.OK,
    tags=["read models"],
    responses=ADMIN_PROBLEMS,
    opt=needs("operate"),
)
async def settle_parked(
    name: FromPath[str],
    thread: FromThread,
    decision: FromPath[Literal["retry", "skip"]],
    service: FromService,
    reader: FromReader,
) -> views.Settled:
    """Retry a parked thread, or skip the event that it was parked at."""
    current = await service.projection_admin.settle(name, thread, reader, skip=decision == "skip")
    return views.Settled(name, thread, "current" if current else "parked_again")


@post(
    "/v1/projections/rebuild",
    status_code=HTTPStatus.ACCEPTED,
    tags=["read models"],
    responses=REBUILD_PROBLEMS,
    opt=needs("operate"),
)
async def rebuild(data: JSONBody[Rebuild], service: FromService, reader: FromReader) -> views.Rebuilding:
    """Rebuild projections while the old ones serve. The new ones serve once they have caught up."""
    line = await service.projection_admin.rebuild(data.projections, data.throttle, reader)
    return views.Rebuilding(list(dict.fromkeys(data.projections)), line)


@post(
    "/v1/projections/{name:str}/rollback",
    status_code=HTTPStatus.OK,
    tags=["read models"],
    responses=ADMIN_PROBLEMS,
    opt=needs("operate"),
)
async def roll_back(name: FromPath[str], service: FromService, reader: FromReader) -> Sequence[views.ProjectionView]:
    """Let the instance that served before serve again."""
    await service.projection_admin.roll_back(name, reader)
    return [view for view in await service.projection_admin.projections() if view.name == name]


@post(
    "/v1/projections/{name:str}/drop",
    status_code=HTTPStatus.OK,
    tags=["read models"],
    responses=ADMIN_PROBLEMS,
    opt=needs("operate"),
)
async def drop_instances(
    name: FromPath[str], service: FromService, reader: FromReader
) -> Sequence[views.ProjectionView]:
    """Drop the instances that do not serve: those that are kept, and the one that is being built."""
    await service.projection_admin.drop(name, reader)
    return [view for view in await service.projection_admin.projections() if view.name == name]


def _span(
    since: datetime | None, until: datetime | None, bucket: Bucket | None, group_by: str, **only: str | None
) -> HourRange:
    chosen: Mapping[str, str] = {name: value for name, value in only.items() if value is not None}
    names = tuple(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    return HourRange(*range_of(since, until), bucket, names, chosen)
