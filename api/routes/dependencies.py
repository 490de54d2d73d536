"""Dependencies of the routes: the service, and who calls."""

from dataclasses import replace
from typing import Annotated
from uuid import UUID

from litestar.di import NamedDependency
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from api.http.caller import Caller, printable
from api.http.params import expected_version, uuid_of, visible
from api.http.problems import AnyRequest
from api.runtime.health import Readiness
from api.services.threads import Service

IfMatch = Annotated[
    str | None,
    HeaderParameter(name="If-Match", description="The entity tag of the version that the caller has seen."),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(name="Idempotency-Key", description="Makes the command safe to repeat; belongs to its thread."),
]
CorrelationId = Annotated[
    str | None,
    HeaderParameter(name="X-Correlation-ID", description="Is recorded with what is done or read, to find it by."),
]
UserAgent = Annotated[
    str | None,
    HeaderParameter(name="User-Agent", description="Is recorded likewise: the program that the caller used."),
]
Actor = Annotated[
    str | None,
    HeaderParameter(
        name="X-Actor",
        description="Who the caller says to be; recorded likewise. Set it in the proxy that authenticates.",
    ),
]
FromService = NamedDependency[Service]
FromCaller = NamedDependency[Caller]
FromReader = NamedDependency[Caller]
FromReadiness = NamedDependency[Readiness]
FromThread = NamedDependency[UUID]
FromTurn = NamedDependency[UUID]
ThreadPath = Annotated[str, PathParameter(description="The thread's id, a UUID.")]
TurnPath = Annotated[str, PathParameter(description="The turn's id, a UUID.")]
Limit = Annotated[int, QueryParameter(ge=1, le=1_000, description="Items of a page.")]
Cursor = Annotated[str | None, QueryParameter(description="The next_cursor of the page before.")]


def service(request: AnyRequest) -> Service:
    """Return the application's service."""
    found = request.app.state.service
    if not isinstance(found, Service):
        raise TypeError("The application has not started")
    return found


def thread(thread_id: ThreadPath) -> UUID:
    """Read the thread that a path names."""
    return uuid_of(thread_id, "thread_id")


def turn(turn_id: TurnPath) -> UUID:
    """Read the turn that a path names."""
    return uuid_of(turn_id, "turn_id")


CLIENT = 100
"""Characters that are kept of the name that a client gives itself."""

REQUEST = 1_000
"""Characters that are kept of a path and its parameters."""


def caller(
    request: AnyRequest,
    idempotency_key: IdempotencyKey = None,
    correlation_id: CorrelationId = None,
    x_actor: Actor = None,
    user_agent: UserAgent = None,
) -> Caller:
    """Read who calls, and how, from the headers."""
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    return Caller(
        key=visible(idempotency_key, "Idempotency-Key"),
        correlation=visible(correlation_id, "X-Correlation-ID"),
        actor=visible(x_actor, "X-Actor"),
        client=printable(user_agent, CLIENT) if user_agent else None,
        request=printable(f"{path}?{query}" if query else path, REQUEST),
    )


def reader(
    request: AnyRequest, correlation_id: CorrelationId = None, x_actor: Actor = None, user_agent: UserAgent = None
) -> Caller:
    """Read who asks without changing anything: the other headers of commands mean nothing here."""
    return caller(request, None, correlation_id, x_actor, user_agent)


def readiness(request: AnyRequest) -> Readiness:
    """Return the application's readiness."""
    found = request.app.state.readiness
    if not isinstance(found, Readiness):
        raise TypeError("The application has not started")
    return found


def expecting(caller: Caller, checkpoint_ref: str | None, if_match: str | None) -> Caller:
    """Add what the caller expects of the thread. Raises `InvalidInput`."""
    if checkpoint_ref is None and if_match is None:
        return caller
    existing = if_match is not None and if_match.strip() == "*"
    return replace(caller, seen=expected_version(checkpoint_ref, if_match), existing=existing)


def etag(checkpoint: str) -> dict[str, str]:
    """Make the header that `If-Match` answers to."""
    return {"ETag": f'"{checkpoint}"'}
