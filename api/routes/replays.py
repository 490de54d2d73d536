"""The route that replays threads."""

from http import HTTPStatus

from litestar import post
from litestar.params import JSONBody

from api.http.authentication import needs
from api.http.params import range_of
from api.http.problems import problems
from api.routes.analytics import Fresh
from api.routes.dependencies import FromReader, FromService
from api.schemas.requests import ReplayFilter, ReplayThreads
from api.services.read_models import Filters
from domain.application.replay.report import ReplayReport
from domain.errors import InvalidInput, UnknownAgent
from domain.ids import ThreadId
from domain.json import check_text
from domain.recall.terms import relaxed_searches

REPLAY_LIMIT_S = 600.0
"""Seconds after which threads that are not replayed yet are reported as failed."""


@post(
    "/v1/replays",
    tags=["replays"],
    status_code=HTTPStatus.OK,
    responses=problems(HTTPStatus.NOT_FOUND, body=True),
    opt=needs("threads:write"),
)
async def replay_threads(
    data: JSONBody[ReplayThreads], service: FromService, reader: FromReader, consistency: Fresh = "eventual"
) -> ReplayReport:
    """Run the turns of threads again, and report what differs from the log. Nothing is stored, and no tool is called.

    With `live`, the models are asked, which costs money that no budget counts.
    """
    agents = service.runtime.agents
    if data.agent is not None and data.agent not in agents:
        raise UnknownAgent(data.agent, tuple(sorted(agents)))
    if (data.threads is None) == (data.filter is None):
        raise InvalidInput("threads" if data.threads is None else "filter", "give either threads or a filter")
    wanted: list[ThreadId] | Filters
    if data.filter is None:
        wanted = [ThreadId(thread_id) for thread_id in data.threads or ()]
    else:
        wanted = _filters(data.filter)
        if consistency == "strong":
            await service.reading.fresh("threads")
            if wanted.search is not None:
                await service.reading.fresh("messages")
    return await service.replays.report(
        wanted,
        agents[data.agent] if data.agent is not None else None,
        reader,
        live=data.live,
        only_different=data.only_different,
        limit=data.limit,
        time_limit_s=REPLAY_LIMIT_S,
    )


def _filters(given: ReplayFilter) -> Filters:
    """Convert a filter. Raises `InvalidInput`."""
    for name in ("graph", "search", "title"):
        check_text(getattr(given, name) or "", f"filter.{name}")
    if given.search is not None and () in relaxed_searches(given.search):
        raise InvalidInput("filter.search", "has only words that are too common; add one that is more specific")
    since, before = range_of(given.active_since, given.active_before, "filter.active_since", "filter.active_before")
    return Filters(
        given.status,
        given.outcome,
        given.reason,
        given.graph,
        given.search,
        given.title,
        active_since=since,
        active_before=before,
    )
