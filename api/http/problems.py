"""Errors as problem details (RFC 9457). No other module maps errors to HTTP statuses."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from litestar.connection import Request
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter
from litestar.plugins.problem_details import ProblemDetailsException
from msgspec import Struct
from pydantic import BaseModel, ValidationError

from api.http.body_size import BODY_TOO_LARGE
from domain import errors
from domain.errors import InvalidInput, ThreadfoldError, VersionConflict
from infrastructure.postgres.failures import is_of_the_store, unavailable

AnyRequest = Request[Any, Any, Any]

_ANSWERS: Mapping[type, tuple[HTTPStatus, str | None]] = {
    ThreadfoldError: (HTTPStatus.INTERNAL_SERVER_ERROR, None),
    InvalidInput: (HTTPStatus.BAD_REQUEST, None),
    errors.BudgetExhausted: (HTTPStatus.PAYMENT_REQUIRED, None),
    errors.NotFound: (HTTPStatus.NOT_FOUND, "thread_id"),
    errors.UnopenedThread: (HTTPStatus.NOT_FOUND, "thread_id"),
    errors.UnknownAgent: (HTTPStatus.NOT_FOUND, "agent"),
    errors.UnknownTurn: (HTTPStatus.NOT_FOUND, "turn_id"),
    errors.UnknownApproval: (HTTPStatus.NOT_FOUND, "approval_id"),
    errors.UnknownEvent: (HTTPStatus.NOT_FOUND, "version"),
    errors.UnknownSeal: (HTTPStatus.NOT_FOUND, "number"),
    errors.NotSealedYet: (HTTPStatus.NOT_FOUND, "version"),
    errors.UnknownProjection: (HTTPStatus.NOT_FOUND, "projection"),
    errors.Conflict: (HTTPStatus.CONFLICT, "thread_id"),
    errors.ApprovalChanged: (HTTPStatus.CONFLICT, "hash"),
    errors.TurnHasEnded: (HTTPStatus.CONFLICT, "turn_id"),
    errors.NotRetriable: (HTTPStatus.CONFLICT, "turn_id"),
    errors.WrongGraph: (HTTPStatus.CONFLICT, "graph"),
    errors.NotRebuildable: (HTTPStatus.CONFLICT, "projection"),
    errors.VerificationRuns: (HTTPStatus.CONFLICT, "path"),
    VersionConflict: (HTTPStatus.PRECONDITION_FAILED, "checkpoint_ref"),
    errors.UnknownGraph: (HTTPStatus.UNPROCESSABLE_ENTITY, "graph"),
    errors.CommandReused: (HTTPStatus.UNPROCESSABLE_ENTITY, "Idempotency-Key"),
    errors.Unauthenticated: (HTTPStatus.UNAUTHORIZED, "Authorization"),
    errors.Forbidden: (HTTPStatus.FORBIDDEN, "Authorization"),
    errors.UnknownKey: (HTTPStatus.NOT_FOUND, "key_id"),
    errors.UnknownTenant: (HTTPStatus.NOT_FOUND, "tenant"),
    errors.TenantExists: (HTTPStatus.CONFLICT, "name"),
    errors.TooManyRequests: (HTTPStatus.TOO_MANY_REQUESTS, None),
    errors.BehindLog: (HTTPStatus.SERVICE_UNAVAILABLE, None),
    errors.StoreUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, None),
    errors.IssuerUnavailable: (HTTPStatus.SERVICE_UNAVAILABLE, None),
}
"""The status of an error and the field at fault; an error without an entry has that of its nearest base class."""

RETRY_AFTER_S = "2"
"""Seconds after which a caller may retry while the service is unavailable."""

_HTTP_FIELDS: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "body",
    HTTPStatus.NOT_FOUND: "path",
    HTTPStatus.METHOD_NOT_ALLOWED: "method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Content-Type",
}

MEDIA_TYPE = "application/problem+json"

_HEADERS: Mapping[int, dict[str, str]] = {
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": RETRY_AFTER_S},
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": 'Bearer realm="Threadfold"'},
}
"""Headers of every problem with a status."""

MEANINGS: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "A field, parameter or header is invalid; `errors` names it.",
    HTTPStatus.PAYMENT_REQUIRED: "Too little is left of a budget; the thread can continue once it is raised.",
    HTTPStatus.UNAUTHORIZED: "There is no key or token, or it is unknown, expired or revoked.",
    HTTPStatus.FORBIDDEN: "The key lacks the scope, or the request comes from a page of another site.",
    HTTPStatus.NOT_FOUND: "The thread, version, graph, approval, seal or projection does not exist, or not yet.",
    HTTPStatus.CONFLICT: (
        "The thread is busy or in another state than the request assumes, or the log is being verified."
    ),
    HTTPStatus.PRECONDITION_FAILED: "The thread is not at the checkpoint that the request names.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON, or is encoded.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "There is no such graph, or the idempotency key was used for another request.",
    HTTPStatus.TOO_MANY_REQUESTS: "The key or its tenant exceeds its rate, or has too many streams; see `Retry-After`.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A defect of the service; it was logged.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database is unavailable, or a read model is behind; see `Retry-After`.",
}
"""What a problem's status means, for /schema."""

MAX_FIELDS = 20
"""Wrong fields that a problem lists."""

MAX_FIELDS_IN_DETAIL = 3
"""Wrong fields that a problem's `detail` repeats."""

MAX_TEXT_CHARACTERS = 300
"""Characters of a field's name or of a message in a problem: a caller can send names of any length."""


EXTRA_FIELD = "Extra inputs are not permitted"
"""Pydantic's message for a field that a body does not have."""


class FieldProblem(Struct, frozen=True):
    """What is wrong with a field, parameter or header: a dotted path, and what was expected."""

    field: str
    message: str


class Problem(Struct, frozen=True):
    """A problem document (RFC 9457)."""

    status: int
    type: str
    title: str
    detail: str
    errors: Sequence[FieldProblem] = ()


def problems(*statuses: int, body: bool = False, store: bool = True) -> dict[int, ResponseSpec]:
    """Describe a route's problems for /schema: those given, and those of every route.

    `body`: also those of a request with a body; `store`: also that the database is unavailable.
    """
    everywhere = (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    of_body = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE) if body else ()
    of_store = (HTTPStatus.SERVICE_UNAVAILABLE,) if store else ()
    return {
        status: ResponseSpec(Problem, generate_examples=False, description=MEANINGS[status], media_type=MEDIA_TYPE)
        for status in sorted({*everywhere, *of_body, *of_store, *statuses})
    }


READ_PROBLEMS = problems()
THREAD_READ_PROBLEMS = problems(HTTPStatus.NOT_FOUND)
UPDATE_PROBLEMS = problems(
    HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.UNPROCESSABLE_ENTITY, body=True
)


def problem(status: int, title: str, detail: str, *wrong: FieldProblem) -> ProblemDetailsException:
    """Make a problem document with the wrong fields. Its type is made of the title."""
    return ProblemDetailsException(
        status_code=status,
        type_=f"urn:threadfold:{title.lower().replace(' ', '-')}",
        title=title,
        detail=detail,
        headers=_HEADERS.get(status),
        extra={"errors": wrong} if wrong else None,
    )


class BodyInvalid(ValidationException):
    """A body that does not fit its model, with the first `MAX_FIELDS` of `count` errors.

    The framework would build a message for every error: 480,000 of them take it 11 seconds.
    """

    def __init__(self, error: ValidationError) -> None:
        """Take over what is needed of pydantic's error."""
        self.count = error.error_count()
        first = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FIELDS]
        shown = [{"key": ".".join(map(str, one["loc"])), "message": one["msg"].split(" - ", 1)[0]} for one in first]
        super().__init__("The body is not valid.", extra=shown)


def decode_body(model: type[BaseModel], given: Any) -> BaseModel:
    """Read a body that is parsed. Raises `BodyInvalid`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise BodyInvalid(error) from error


def is_body(kind: Any) -> bool:
    """Return whether `decode_body` reads a type."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def problem_handlers() -> dict[int | type[Exception], Any]:
    """Return handlers that turn every error into a problem document."""
    return {
        ThreadfoldError: lambda request, error: _of_domain(error, request).to_response(request),
        HTTPException: lambda request, error: _of_http(error, request).to_response(request),
        ValidationException: lambda request, error: _of_validation(error, request).to_response(request),
        Exception: lambda request, error: _unexpected(error, request).to_response(request),
    }


def _unexpected(error: Exception, request: AnyRequest) -> ProblemDetailsException:
    """Describe a defect of the service: the log gets the traceback, the caller no details.

    Adapters raise `StoreUnavailable` for errors of the database. One that an adapter missed is answered likewise.
    """
    if is_of_the_store(error):
        return _of_domain(unavailable(error), request)
    logging.getLogger(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error", "The service failed; the error was logged.")


def _of_domain(error: ThreadfoldError, request: AnyRequest) -> ProblemDetailsException:
    status, field = next(_ANSWERS[kind] for kind in type(error).mro() if kind in _ANSWERS)
    detail = why = str(error)
    match error:
        case InvalidInput():
            field, why = error.field[:MAX_TEXT_CHARACTERS], error.why
            detail = f"{field}: {why}"
        case errors.UnknownThread() | errors.Forbidden():
            field = error.field
        case VersionConflict():
            field = "If-Match" if "if-match" in request.headers else field
            detail = why = detail if error.actual else "There is no such thread yet, so it has no checkpoint."
    title = "".join(f" {c}" if c.isupper() else c for c in type(error).__name__).strip().capitalize()
    answer = problem(status, title, detail, *([FieldProblem(field, why)] if field else ()))
    if isinstance(error, errors.TooManyRequests):
        answer.headers = {"Retry-After": str(error.retry_after)}
    return answer


def _of_validation(error: ValidationException, request: AnyRequest) -> ProblemDetailsException:
    given: list[Any] = error.extra if isinstance(error.extra, list) else []
    count = error.count if isinstance(error, BodyInvalid) else len(given)
    wrong = [_one_of_validation(e, request) for e in given[:MAX_FIELDS] if isinstance(e, dict)]
    detail = "; ".join(f"{one.field}: {one.message}" for one in wrong[:MAX_FIELDS_IN_DETAIL]) or error.detail
    if count > MAX_FIELDS_IN_DETAIL:
        detail = f"{detail}; … and {count - MAX_FIELDS_IN_DETAIL} more"
    if count > MAX_FIELDS:
        wrong.append(FieldProblem("body", f"… and {count - MAX_FIELDS} more"))
    return problem(HTTPStatus.BAD_REQUEST, "Invalid input", detail, *wrong)


def _one_of_validation(error: Mapping[str, Any], request: AnyRequest) -> FieldProblem:
    """Return the field of the framework's error. The framework calls the body `data`."""
    key = _as_sent(str(error.get("key") or "body"), request)[:MAX_TEXT_CHARACTERS]
    if key == "data":
        return FieldProblem("body", "is required: a JSON object")
    message = str(error.get("message", "is not valid"))
    if message == EXTRA_FIELD and key in {
        parameter.name for parameter in request.route_handler.parsed_fn_signature.parameters.values()
    }:
        message = f"is not a field of the body but a parameter of the query: ?{key}=..."
    return FieldProblem(key, message[:MAX_TEXT_CHARACTERS])


def _detail(error: HTTPException, request: AnyRequest) -> str:
    """Return what was wrong: the framework's own errors have only the phrase of their status."""
    status, path = HTTPStatus(error.status_code), request.url.path[:MAX_TEXT_CHARACTERS]
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return BODY_TOO_LARGE
    if error.detail != status.phrase:
        return error.detail
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow", "none")
        method = request.method[:MAX_TEXT_CHARACTERS]
        return f"{path} does not take {method}; it takes {allowed}. /schema lists all paths."
    return f"There is no path {path}. /schema lists all paths." if status == HTTPStatus.NOT_FOUND else error.detail


def _as_sent(key: str, request: AnyRequest) -> str:
    """Return a parameter's name as callers send it: `from` has another name in the handler, as it is a keyword."""
    parameter = request.route_handler.parsed_fn_signature.parameters.get(key)
    definition = parameter.kwarg_definition if parameter else None
    return definition.name or key if isinstance(definition, QueryParameter) else key


def _of_http(error: HTTPException, request: AnyRequest) -> ProblemDetailsException:
    if isinstance(error, ProblemDetailsException):
        return error
    detail = _detail(error, request)
    field = _HTTP_FIELDS.get(error.status_code)
    wrong = [FieldProblem(field, detail)] if field else ()
    answer = problem(error.status_code, HTTPStatus(error.status_code).phrase, detail, *wrong)
    if error.headers:  # such as the Allow of 405
        answer.headers = {**(answer.headers or {}), **error.headers}
    return answer
