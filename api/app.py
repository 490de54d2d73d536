"""The Litestar application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute

from api.http.guards import guard
from api.http.json_body import JsonRequest
from api.http.openapi import TightSchema
from api.http.problems import problem_handlers
from api.routes import ROUTES
from api.routes.dependencies import caller, reader, readiness, service, thread, turn
from api.runtime.composition import Runtime, open_runtime
from api.runtime.health import Readiness
from api.schemas.requests import MAX_BODY
from api.services.threads import Service
from infrastructure.settings import Settings


def _openapi() -> OpenAPIConfig:
    """Describe the API. Each application renders its own schema, which names its agents."""
    return OpenAPIConfig(
        title="Threadfold",
        version="0.1.0",
        path="/schema",
        render_plugins=[TightSchema(path=["/", "/openapi.json"])],
        use_handler_docstrings=True,
    )


def create_app(settings: Settings, opened: Callable[[Runtime], None] = lambda _: None) -> Litestar:
    """Build the application. It connects when it starts, calls `opened` before it runs turns, and at last lets go."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_runtime(settings) as runtime:
            app.state.service = Service(runtime)
            store = runtime.repository.store
            app.state.readiness = Readiness(store, write=store.check_writable)
            opened(runtime)
            async with runtime.working():
                yield
            app.state.readiness.close()

    app = Litestar(
        route_handlers=ROUTES,
        lifespan=[lifespan],
        dependencies={
            dependency.__name__: Provide(dependency, sync_to_thread=False)
            for dependency in (service, readiness, caller, reader, thread, turn)
        },
        before_request=guard(settings.host),
        exception_handlers=problem_handlers(),
        openapi_config=_openapi(),
        request_class=JsonRequest,
        request_max_body_size=MAX_BODY,
        logging_config=None,
    )
    _resolve_in_turn(app)
    return app


def _resolve_in_turn(app: Litestar) -> None:
    """Have the dependencies of a route made one after the other.

    Litestar makes those that do not need each other in tasks beside each other. Ours never wait for anything, and the
    tasks cost more than all the rest of the way from the request to its route.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, wanted in route.route_handler_map.values():
                wanted.dependency_batches = [{one} for batch in wanted.dependency_batches for one in batch]
