"""Routes that list turns: of all threads, and of one."""

from datetime import datetime
from typing import Annotated, Literal

from litestar import get
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter

from api.http.authentication import needs
from api.http.params import in_utc, names_in
from api.http.problems import READ_PROBLEMS, THREAD_READ_PROBLEMS
from api.routes.analytics import Fresh, MinVersion, wait_until_current
from api.routes.dependencies import Cursor, FromReader, FromService, FromThread, Limit
from api.schemas.page import Page
from api.services.read_models import MAX_COST_USD, MAX_DURATION_MS
from domain.money import units
from projections.threads import REASONS
from projections.turn_list import TURN_STATES, Sort, TurnFilters, TurnSummary

Cost = Annotated[float | None, QueryParameter(ge=0, le=MAX_COST_USD, description="In dollars.")]
Duration = Annotated[
    int | None,
    QueryParameter(ge=0, le=MAX_DURATION_MS, description="Only turns that have ended, from their start to their end."),
]


def turn_filters(
    outcome: Annotated[
        str,
        QueryParameter(
            description=f"How the turn ended, or what it does: {', '.join(TURN_STATES)}; several separated by commas."
        ),
    ] = "",
    reason: Annotated[
        str, QueryParameter(description="Why it ended so, such as node_failed; several separated by commas.")
    ] = "",
    graph: Annotated[str | None, QueryParameter(description="The agent's graph.")] = None,
    tool: Annotated[
        str, QueryParameter(description="A tool that the turn called; one of several separated by commas.")
    ] = "",
    created_since: Annotated[datetime | None, QueryParameter(description="The earliest arrival of a message.")] = None,
    created_before: Annotated[datetime | None, QueryParameter(description="Messages that arrived before this.")] = None,
    min_cost_usd: Cost = None,
    max_cost_usd: Cost = None,
    min_duration_ms: Duration = None,
    max_duration_ms: Duration = None,
    sort: Annotated[Sort, QueryParameter(description="duration_ms: only turns that have ended.")] = "created_at",
    order: FromQuery[Literal["asc", "desc"]] = "desc",
) -> TurnFilters:
    """Read which turns a list has. Raises `InvalidInput`."""
    return TurnFilters(
        names_in(outcome, "outcome", TURN_STATES),
        names_in(reason, "reason", REASONS),
        graph,
        tuple(dict.fromkeys(name.strip() for name in tool.split(",") if name.strip())),
        in_utc(created_since, "created_since"),
        in_utc(created_before, "created_before"),
        None if min_cost_usd is None else units(min_cost_usd),
        None if max_cost_usd is None else units(max_cost_usd),
        min_duration_ms,
        max_duration_ms,
        sort,
        order == "desc",
    )


FILTERED = {"filters": Provide(turn_filters, sync_to_thread=False)}


@get("/v1/turns", tags=["turns"], responses=READ_PROBLEMS, dependencies=FILTERED, opt=needs("threads:read"))
async def list_turns(
    service: FromService,
    reader: FromReader,
    filters: NamedDependency[TurnFilters],
    cursor: Cursor = None,
    limit: Limit = 50,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> Page[TurnSummary]:
    """List turns of all threads that match the filters, by default the latest first."""
    await wait_until_current(service, reader, "turn_list", consistency, min_version)
    return await service.reading.turns(filters, cursor, limit, reader)


@get(
    "/v1/threads/{thread_id:str}/turns",
    tags=["turns"],
    responses=THREAD_READ_PROBLEMS,
    dependencies=FILTERED,
    opt=needs("threads:read"),
)
async def list_turns_of_thread(
    thread: FromThread,
    service: FromService,
    reader: FromReader,
    filters: NamedDependency[TurnFilters],
    cursor: Cursor = None,
    limit: Limit = 50,
    consistency: Fresh = "eventual",
    min_version: MinVersion = None,
) -> Page[TurnSummary]:
    """List turns of a thread that match the filters, by default the latest first. A fork lists its own turns."""
    await wait_until_current(service, reader, "turn_list", consistency, min_version)
    return await service.reading.turns(filters, cursor, limit, reader, thread)
