"""What this service is: its agents' graphs, and its health."""

import asyncio
from collections.abc import Sequence

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from api.callers import FromService
from api.views import GraphView, Health, graph_view
from domain.errors import UnknownGraph
from domain.ids import Position, Slice

DATABASE_LIMIT = 2.0
"""Seconds that the database may take to answer before the process counts as unready."""


@get("/v1/graphs", tags=["graphs"])
async def list_graphs(service: FromService) -> Sequence[GraphView]:
    """List the agents that threads can be opened with."""
    return [graph_view(agent) for _, agent in sorted(service.runtime.agents.items())]


@get("/v1/graphs/{name:str}", tags=["graphs"])
async def show_graph(name: FromPath[str], service: FromService) -> GraphView:
    """Show an agent's nodes, edges and tools, and its drawing in Mermaid."""
    try:
        return graph_view(service.agent(name))
    except UnknownGraph as error:
        raise NotFoundException(detail=str(error)) from error


@get("/health/live", tags=["health"])
async def live() -> Health:
    """Say that the process answers."""
    return Health("alive")


@get("/health/ready", tags=["health"])
async def ready(service: FromService) -> Response[Health]:
    """Say whether the log can be read."""
    try:
        async with asyncio.timeout(DATABASE_LIMIT):
            await service.runtime.journal.store.read_slice(Slice(0), Position(0), 1)
    except Exception as error:  # noqa: BLE001  (whatever keeps the log from answering makes us unready)
        detail = f"The database does not answer: {type(error).__name__}"
        return Response(Health("unready", detail), status_code=HTTP_503_SERVICE_UNAVAILABLE)
    return Response(Health("ready"), status_code=HTTP_200_OK)
