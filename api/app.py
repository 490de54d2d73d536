"""The Litestar application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute

from api.http.authentication import Authentication, RequestLimits, check_scopes, rate_of
from api.http.body_size import MAX_BODY_BYTES
from api.http.guards import guard
from api.http.hosts import is_loopback
from api.http.json_body import JsonRequest
from api.http.openapi import TightSchema
from api.http.problems import decode_body, is_body, problem_handlers
from api.http.security_headers import add_security_headers
from api.routes import ROUTES
from api.routes.dependencies import caller, reader, readiness, service, thread, turn, verified
from api.runtime.composition import Runtime, open_runtime
from api.runtime.health import Readiness
from api.services.missing_nodes import reporting_missing
from api.services.threads import Service
from domain.application.identity.authenticate import Authenticator
from infrastructure.oidc import OidcVerifier
from infrastructure.settings import BadSetting, Settings


def create_app(settings: Settings, opened: Callable[[Runtime], None] = lambda _: None) -> Litestar:
    """Build the application. At its start it connects, calls `opened`, and then runs turns until it stops."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_runtime(settings) as runtime:
            app.state.service = Service(runtime)
            tokens = OidcVerifier(settings.oidc, runtime.clock) if settings.oidc else None
            authenticator = Authenticator(runtime.log.identity, runtime.clock, settings.auth, tokens)
            await authenticator.poll()
            _check_reach(settings, authenticator)
            app.state.authenticator = authenticator
            app.state.readiness = Readiness(runtime.repository.store)
            opened(runtime)
            async with (
                runtime.background.running("identity", authenticator.run),
                runtime.working(),
                reporting_missing(runtime),
            ):
                yield
            app.state.readiness.close()
            if tokens is not None:
                await tokens.close()

    check_scopes(ROUTES)
    app = Litestar(
        route_handlers=ROUTES,
        lifespan=[lifespan],
        dependencies={
            dependency.__name__: Provide(dependency, sync_to_thread=False)
            for dependency in (service, readiness, caller, reader, verified, thread, turn)
        },
        middleware=[Authentication(_limits_of(settings))],
        before_send=[add_security_headers],
        before_request=guard(settings.host, settings.host_names),
        exception_handlers=problem_handlers(),
        # Each application renders its own schema, with the names of its agents.
        openapi_config=OpenAPIConfig(
            title="Threadfold",
            version="0.1.0",
            path="/schema",
            render_plugins=[TightSchema(path=["/", "/openapi.json"])],
            use_handler_docstrings=True,
        ),
        request_class=JsonRequest,
        request_max_body_size=MAX_BODY_BYTES,
        type_decoders=[(is_body, decode_body)],
        logging_config=None,
    )
    _resolve_dependencies_in_sequence(app)
    return app


def _limits_of(settings: Settings) -> RequestLimits:
    return RequestLimits(
        rate_of(settings.key_requests_per_second),
        rate_of(settings.tenant_requests_per_second),
        settings.tenant_streams,
    )


def _check_reach(settings: Settings, authenticator: Authenticator) -> None:
    """Refuse to serve other machines openly, unless the settings say so. Raises `BadSetting`."""
    if settings.auth == "auto" and not authenticator.required and not is_loopback(settings.host):
        raise BadSetting(
            f"HOST={settings.host}: other machines could read and do everything, as there is no API key. Create one: "
            "threadfold keys create NAME. Or set OIDC_ISSUER to accept its tokens, AUTH=required to start without a "
            "key, or AUTH=none to serve openly."
        )


def _resolve_dependencies_in_sequence(app: Litestar) -> None:
    """Resolve the dependencies of a route one after the other.

    Litestar resolves independent ones in concurrent tasks. Ours never wait, and those tasks cost more than everything
    else between the request and its handler.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, model in route.route_handler_map.values():
                model.dependency_batches = [{one} for batch in model.dependency_batches for one in batch]
