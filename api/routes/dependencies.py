"""Dependencies of the routes: the service, the caller, and ids of the path."""

from dataclasses import replace
from typing import Annotated, Protocol, TypeVar

from litestar import Response
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from api.http.caller import Caller, printable
from api.http.params import expected_version, uuid_of, visible
from api.http.problems import AnyRequest
from api.runtime.health import Readiness
from api.services.threads import Service
from domain.errors import Forbidden
from domain.identity.principal import Principal
from domain.ids import ThreadId, TurnId

IfMatch = Annotated[
    str | None,
    HeaderParameter(name="If-Match", description="The last ETag that the caller received; 412 if it has changed."),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(name="Idempotency-Key", description="Makes the command safe to repeat. Scoped to its thread."),
]
CorrelationId = Annotated[
    str | None,
    HeaderParameter(name="X-Correlation-ID", description="Is recorded with the command or the access."),
]
UserAgent = Annotated[
    str | None,
    HeaderParameter(name="User-Agent", description="The caller's program; recorded with the command or the access."),
]
Actor = Annotated[
    str | None,
    HeaderParameter(
        name="X-Actor",
        description="The person whom the caller acts for; recorded likewise. Takes the scope actor:impersonate.",
    ),
]
FromService = NamedDependency[Service]
FromCaller = NamedDependency[Caller]
FromPrincipal = NamedDependency[Principal]
FromReader = NamedDependency[Caller]
FromReadiness = NamedDependency[Readiness]
FromThread = NamedDependency[ThreadId]
FromTurn = NamedDependency[TurnId]
ThreadPath = Annotated[str, PathParameter(description="The thread's id, a UUID.")]
TurnPath = Annotated[str, PathParameter(description="The turn's id, a UUID.")]
Limit = Annotated[int, QueryParameter(ge=1, le=1_000, description="Items of a page at most.")]
Cursor = Annotated[str | None, QueryParameter(description="The next_cursor of the previous page.")]


def service(request: AnyRequest) -> Service:
    """Return the application's service."""
    found: Service = request.app.state.service
    return found


def verified(request: AnyRequest) -> Principal:
    """Return the verified caller.

    The dependency has another name than the field `principal` of a body: the framework answers 500 instead of 400 to an
    invalid field that is called like a dependency.
    """
    found: Principal = request.auth
    return found


def thread(thread_id: ThreadPath) -> ThreadId:
    """Read the thread id of a path. Raises `InvalidInput`."""
    return ThreadId(uuid_of(thread_id, "thread_id"))


def turn(turn_id: TurnPath) -> TurnId:
    """Read the turn id of a path. Raises `InvalidInput`."""
    return TurnId(uuid_of(turn_id, "turn_id"))


MAX_CLIENT_CHARACTERS = 100
"""Characters of a User-Agent that are recorded."""

MAX_REQUEST_CHARACTERS = 1_000
"""Characters of a path with its query that are recorded."""


def caller(
    request: AnyRequest,
    idempotency_key: IdempotencyKey = None,
    correlation_id: CorrelationId = None,
    x_actor: Actor = None,
    user_agent: UserAgent = None,
) -> Caller:
    """Read the caller of a command from the headers. Raises `InvalidInput` and `Forbidden`."""
    who: Principal = request.auth
    actor = visible(x_actor, "X-Actor")
    if actor is not None and not who.may("actor:impersonate"):
        raise Forbidden("X-Actor takes the scope actor:impersonate.", "X-Actor")
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    return Caller(
        tenant=who.tenant,
        principal=who.name,
        key=visible(idempotency_key, "Idempotency-Key"),
        correlation=visible(correlation_id, "X-Correlation-ID"),
        actor=actor or who.name,
        client=printable(user_agent, MAX_CLIENT_CHARACTERS) if user_agent else None,
        request=printable(f"{path}?{query}" if query else path, MAX_REQUEST_CHARACTERS),
    )


def reader(
    request: AnyRequest, correlation_id: CorrelationId = None, x_actor: Actor = None, user_agent: UserAgent = None
) -> Caller:
    """Read the caller of a query: the headers that only commands use are ignored. Raises `InvalidInput`."""
    return caller(request, None, correlation_id, x_actor, user_agent)


def readiness(request: AnyRequest) -> Readiness:
    """Return the application's readiness check."""
    found: Readiness = request.app.state.readiness
    return found


def expecting(caller: Caller, checkpoint_ref: str | None, if_match: str | None) -> Caller:
    """Add the version that the caller expects the thread to have. Raises `InvalidInput`."""
    if checkpoint_ref is None and if_match is None:
        return caller
    existing = if_match is not None and if_match.strip() == "*"
    return replace(caller, seen=expected_version(checkpoint_ref, if_match), existing=existing)


class WithCheckpoint(Protocol):
    """A body that has the checkpoint of its thread."""

    @property
    def checkpoint(self) -> str:
        """Identifies the version that the body shows."""


B = TypeVar("B", bound=WithCheckpoint)


def tagged(body: B, status: int | None = None, **headers: str) -> Response[B]:
    """Answer with a body and its checkpoint as the ETag; by default with the route's status."""
    return Response(body, status_code=status, headers={"ETag": f'"{body.checkpoint}"', **headers})
