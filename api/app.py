"""The Litestar application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from litestar import Litestar
from litestar.connection import Request
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from api.callers import caller, service, thread
from api.json_request import JsonRequest
from api.problems import problem, problem_plugin
from api.routes import about, threads, turns
from api.runtime import Runtime, open_runtime
from api.service import Service
from domain.application.recover import recover_forever
from infrastructure.settings import Settings

MAX_BODY = 1_000_000
"""Bytes of a request's body."""


def create_app(settings: Settings) -> Litestar:
    """Build the application. It connects when it starts, and lets go when it stops."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_runtime(settings) as runtime:
            app.state.service = Service(runtime)
            async with _recovering(runtime):
                yield

    return Litestar(
        route_handlers=[
            turns.invoke,
            turns.start_turn,
            threads.open_thread,
            threads.update_values,
            threads.list_threads,
            threads.show_thread,
            threads.show_state,
            threads.list_messages,
            threads.list_events,
            about.list_graphs,
            about.show_graph,
            about.live,
            about.ready,
        ],
        lifespan=[lifespan],
        dependencies={
            "service": Provide(service, sync_to_thread=False),
            "caller": Provide(caller, sync_to_thread=False),
            "thread": Provide(thread, sync_to_thread=False),
        },
        plugins=[problem_plugin()],
        before_request=refuse_unknown_parameters,
        exception_handlers={Exception: _unexpected},
        openapi_config=OpenAPIConfig(
            title="Threadfold",
            version="0.1.0",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        request_class=JsonRequest,
        request_max_body_size=MAX_BODY,
        logging_config=None,
    )


async def refuse_unknown_parameters(request: Request[Any, Any, Any]) -> None:
    """Refuse query parameters that the route does not have: a misspelt `at_version` must not mean «now»."""
    known = request.route_handler.parsed_fn_signature.parameters
    for name in request.query_params:
        if name not in known:
            wrong = [{"field": name, "message": "is not a parameter of this path"}]
            raise problem(400, "invalid-input", "Invalid input", f"{name}: is not a parameter of this path", wrong)


@asynccontextmanager
async def _recovering(runtime: Runtime) -> AsyncIterator[None]:
    task = asyncio.create_task(recover_forever(runtime.turns, runtime.clock, alone_since=runtime.alone_since))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Any:
    """Answer a defect of ours: it is logged whole, and told to the caller without its inside."""
    logging.getLogger(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal-error", "Internal error", "Something failed here; it was logged.").to_response(
        request
    )
