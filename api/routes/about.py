"""Routes about the service: its agents' graphs, its workers, its health and its metrics."""

from collections.abc import Sequence
from http import HTTPStatus

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.openapi import ResponseSpec
from litestar.params import FromPath

from api.http.authentication import needs, public
from api.http.problems import READ_PROBLEMS, problems
from api.routes.dependencies import FromReadiness, FromService
from api.runtime.metrics import exposition
from api.schemas.about import Health, WorkerView
from api.schemas.graphs import GraphView, graph_view, graph_views
from domain.errors import StoreUnavailable, UnknownGraph

EXPOSITION = "text/plain; version=0.0.4"
METERED = {
    HTTPStatus.OK: ResponseSpec(
        str, generate_examples=False, description="The metrics.", media_type=f"{EXPOSITION}; charset=utf-8"
    ),
    **READ_PROBLEMS,
}
UNREADY = ResponseSpec(
    Health, generate_examples=False, description="The log cannot be read or written, or a background task does not run."
)


@get("/v1/graphs", tags=["graphs"], responses=problems(store=False), opt=needs("threads:read"))
async def list_graphs(service: FromService) -> Sequence[GraphView]:
    """List the agents that threads can be opened with, each with its versions: the current one takes new turns."""
    return graph_views(service.runtime.agents)


@get(
    "/v1/graphs/{name:str}",
    tags=["graphs"],
    responses=problems(HTTPStatus.NOT_FOUND, store=False),
    opt=needs("threads:read"),
)
async def show_graph(name: FromPath[str], service: FromService) -> GraphView:
    """Show the nodes, edges and tools of an agent's current version, and its graph in Mermaid."""
    try:
        return graph_view(service.agent(name))
    except UnknownGraph as error:
        raise NotFoundException(detail=str(error)) from error


@get("/v1/workers", tags=["health"], responses=READ_PROBLEMS, opt=needs("operate"))
async def list_workers(service: FromService) -> Sequence[WorkerView]:
    """List the processes that run turns, with their shards."""
    return await service.workers()


@get("/health/live", tags=["health"], responses=problems(store=False), opt=public())
async def live() -> Health:
    """Answer 200 while the process is alive."""
    return Health("alive")


@get(
    "/health/ready",
    tags=["health"],
    responses={**problems(store=False), HTTPStatus.SERVICE_UNAVAILABLE: UNREADY},
    opt=public(),
)
async def ready(readiness: FromReadiness, service: FromService) -> Response[Health]:
    """Answer 200 if the log can be read and written and every background task runs, else 503.

    With 200, `detail` may name something that needs attention.
    """
    trouble = await readiness.trouble()
    if trouble is not None:
        detail = f"The log cannot be read and written: {trouble}"
        return Response(Health("unready", detail), status_code=HTTPStatus.SERVICE_UNAVAILABLE)
    if down := service.runtime.background.not_running():
        detail = f"Background tasks that do not run: {', '.join(down)}. See the log for the reason; they are restarted."
        return Response(Health("unready", detail), status_code=HTTPStatus.SERVICE_UNAVAILABLE)
    return Response(Health("ready", await service.projection_admin.trouble()), status_code=HTTPStatus.OK)


@get("/metrics", tags=["health"], media_type=EXPOSITION, responses=METERED, opt=needs("operate"))
async def metrics(service: FromService) -> bytes:
    """Show metrics of the read models and the background tasks, in Prometheus' text format.

    Those of the read models are missing while the log cannot be read.
    """
    try:
        projections = await service.projection_admin.projections()
    except StoreUnavailable:
        projections = ()
    return exposition(projections, service.runtime.background.statuses())
