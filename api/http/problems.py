"""Errors as problem details (RFC 9457). No other module maps errors to HTTP statuses."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from litestar import Response
from litestar.connection import Request
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter
from litestar.plugins.problem_details import ProblemDetailsException
from litestar.status_codes import (
    HTTP_400_BAD_REQUEST,
    HTTP_402_PAYMENT_REQUIRED,
    HTTP_403_FORBIDDEN,
    HTTP_404_NOT_FOUND,
    HTTP_405_METHOD_NOT_ALLOWED,
    HTTP_409_CONFLICT,
    HTTP_412_PRECONDITION_FAILED,
    HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    HTTP_415_UNSUPPORTED_MEDIA_TYPE,
    HTTP_422_UNPROCESSABLE_ENTITY,
    HTTP_500_INTERNAL_SERVER_ERROR,
    HTTP_503_SERVICE_UNAVAILABLE,
)
from msgspec import Struct

from api.http.body_size import BODY_TOO_LARGE
from domain.errors import (
    ApprovalChanged,
    BehindLog,
    BudgetExhausted,
    CommandReused,
    Conflict,
    InvalidInput,
    NotFound,
    NotRebuildable,
    NotRetriable,
    NotSealedYet,
    StoreUnavailable,
    ThreadfoldError,
    TurnHasEnded,
    UnknownApproval,
    UnknownEvent,
    UnknownGraph,
    UnknownProjection,
    UnknownSeal,
    UnknownTurn,
    UnopenedThread,
    VerificationRuns,
    VersionConflict,
    WrongGraph,
)
from infrastructure.postgres.failures import is_of_the_store, unavailable

AnyRequest = Request[Any, Any, Any]

_STATUS: tuple[tuple[type[ThreadfoldError], int], ...] = (
    (InvalidInput, HTTP_400_BAD_REQUEST),
    (BudgetExhausted, HTTP_402_PAYMENT_REQUIRED),
    (UnknownGraph, HTTP_422_UNPROCESSABLE_ENTITY),
    (NotFound, HTTP_404_NOT_FOUND),
    (UnopenedThread, HTTP_404_NOT_FOUND),
    (VersionConflict, HTTP_412_PRECONDITION_FAILED),
    (CommandReused, HTTP_422_UNPROCESSABLE_ENTITY),
    (Conflict, HTTP_409_CONFLICT),
    (BehindLog, HTTP_503_SERVICE_UNAVAILABLE),
    (StoreUnavailable, HTTP_503_SERVICE_UNAVAILABLE),
)
"""The first match counts; without one, the status is 500."""

RETRY_AFTER_S = "2"
"""Seconds after which a caller may retry while the service is unavailable."""

_FIELDS: Mapping[type[ThreadfoldError], str] = {
    UnknownGraph: "graph",
    UnknownApproval: "approval_id",
    UnknownTurn: "turn_id",
    UnknownEvent: "version",
    UnknownSeal: "number",
    NotSealedYet: "version",
    VerificationRuns: "path",
    ApprovalChanged: "hash",
    TurnHasEnded: "turn_id",
    NotRetriable: "turn_id",
    WrongGraph: "graph",
    CommandReused: "Idempotency-Key",
    VersionConflict: "checkpoint_ref",
    UnknownProjection: "projection",
    NotRebuildable: "projection",
    NotFound: "thread_id",
    UnopenedThread: "thread_id",
    Conflict: "thread_id",
}

_HTTP_FIELDS: Mapping[int, str] = {
    HTTP_400_BAD_REQUEST: "body",
    HTTP_404_NOT_FOUND: "path",
    HTTP_405_METHOD_NOT_ALLOWED: "method",
    HTTP_413_REQUEST_ENTITY_TOO_LARGE: "body",
    HTTP_415_UNSUPPORTED_MEDIA_TYPE: "Content-Type",
}

MEDIA_TYPE = "application/problem+json"

MEANINGS: Mapping[int, str] = {
    HTTP_400_BAD_REQUEST: "A field, parameter or header is invalid; `errors` names it.",
    HTTP_402_PAYMENT_REQUIRED: "Too little is left of a budget; the thread can continue once it is raised.",
    HTTP_403_FORBIDDEN: "The request comes from a page of another site.",
    HTTP_404_NOT_FOUND: "The thread, version, graph, approval, seal or projection does not exist, or not yet.",
    HTTP_409_CONFLICT: "The thread is busy or in another state than the request assumes, or the log is being verified.",
    HTTP_412_PRECONDITION_FAILED: "The thread is not at the checkpoint that the request names.",
    HTTP_413_REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTP_415_UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON, or is encoded.",
    HTTP_422_UNPROCESSABLE_ENTITY: "There is no such graph, or the idempotency key was used for another request.",
    HTTP_500_INTERNAL_SERVER_ERROR: "A defect of the service; it was logged.",
    HTTP_503_SERVICE_UNAVAILABLE: "The database is unavailable, or a read model is behind; see `Retry-After`.",
}
"""What a problem's status means, for /schema."""

MAX_FIELDS = 20
"""Wrong fields that a problem lists."""

MAX_FIELDS_IN_DETAIL = 3
"""Wrong fields that a problem's `detail` repeats."""

MAX_TEXT_CHARACTERS = 300
"""Characters of a field's name or of a message in a problem: a caller can send names of any length."""


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


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """Describe a route's problems for /schema: those given, and those of every route."""
    everywhere = (HTTP_400_BAD_REQUEST, HTTP_403_FORBIDDEN, HTTP_500_INTERNAL_SERVER_ERROR)
    return {
        status: ResponseSpec(Problem, generate_examples=False, description=MEANINGS[status], media_type=MEDIA_TYPE)
        for status in sorted({*everywhere, *statuses})
    }


def problem(
    status: int, kind: str, title: str, detail: str, errors: list[dict[str, str]] | None = None
) -> ProblemDetailsException:
    """Make a problem document. `errors` has each wrong field and what was expected."""
    return ProblemDetailsException(
        status_code=status,
        type_=f"urn:threadfold:{kind}",
        title=title,
        detail=detail,
        headers={"Retry-After": RETRY_AFTER_S} if status == HTTP_503_SERVICE_UNAVAILABLE else None,
        extra={"errors": errors} if errors else None,
    )


def problem_handlers() -> dict[int | type[Exception], Any]:
    """Return handlers that turn every error into a problem document."""
    return {
        ThreadfoldError: lambda request, error: _of_domain(error, request).to_response(request),
        HTTPException: lambda request, error: _of_http(error).to_response(request),
        ValidationException: lambda request, error: _of_validation(error, request).to_response(request),
        Exception: _unexpected,
    }


def _unexpected(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer a defect of the service: the log gets the traceback, the caller no details.

    Adapters raise `StoreUnavailable` for errors of the database. One that an adapter missed is answered likewise.
    """
    if is_of_the_store(error):
        return _of_domain(unavailable(error), request).to_response(request)
    logging.getLogger(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
    answer = problem(
        HTTP_500_INTERNAL_SERVER_ERROR, "internal-error", "Internal error", "The service failed; the error was logged."
    )
    return answer.to_response(request)


def _of_domain(error: ThreadfoldError, request: AnyRequest) -> ProblemDetailsException:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTP_500_INTERNAL_SERVER_ERROR)
    name, detail, why = type(error).__name__, str(error), str(error)
    field = _field_of(error)
    match error:
        case InvalidInput():
            field, why = error.field[:MAX_TEXT_CHARACTERS], error.why
            detail = f"{field}: {why}"
        case VersionConflict():
            field = "If-Match" if "if-match" in request.headers else field
            detail = why = detail if error.actual else "There is no such thread yet, so it has no checkpoint."
    errors = [{"field": field, "message": why}] if field else None
    return problem(status, _dashed(name), _spaced(name), detail, errors)


def _field_of(error: ThreadfoldError) -> str | None:
    return next((field for kind, field in _FIELDS.items() if isinstance(error, kind)), None)


def _of_validation(error: ValidationException, request: AnyRequest) -> ProblemDetailsException:
    given: list[Any] = error.extra if isinstance(error.extra, list) else []
    errors = [_one_of_validation(e, request) for e in given if isinstance(e, dict)]
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:MAX_FIELDS_IN_DETAIL]) or error.detail
    if len(errors) > MAX_FIELDS_IN_DETAIL:
        detail = f"{detail}; … and {len(errors) - MAX_FIELDS_IN_DETAIL} more"
    if len(errors) > MAX_FIELDS:
        more = f"… and {len(errors) - MAX_FIELDS} more"
        errors = [*errors[:MAX_FIELDS], {"field": "body", "message": more}]
    return problem(HTTP_400_BAD_REQUEST, "invalid-input", "Invalid input", detail, errors)


def _one_of_validation(error: Mapping[str, Any], request: AnyRequest) -> dict[str, str]:
    """Return the field of the framework's error. The framework calls the body `data`."""
    key = _as_sent(str(error.get("key") or "body"), request)[:MAX_TEXT_CHARACTERS]
    if key == "data":
        return {"field": "body", "message": "is required: a JSON object"}
    return {"field": key, "message": str(error.get("message", "is not valid"))[:MAX_TEXT_CHARACTERS]}


def _as_sent(key: str, request: AnyRequest) -> str:
    """Return a parameter's name as callers send it: `from` has another name in the handler, as it is a keyword."""
    parameter = request.route_handler.parsed_fn_signature.parameters.get(key)
    definition = parameter.kwarg_definition if parameter else None
    return definition.name or key if isinstance(definition, QueryParameter) else key


def _of_http(error: HTTPException) -> ProblemDetailsException:
    if isinstance(error, ProblemDetailsException):
        return error
    title = HTTPStatus(error.status_code).phrase
    field = _HTTP_FIELDS.get(error.status_code)
    too_large = error.status_code == HTTP_413_REQUEST_ENTITY_TOO_LARGE
    detail = BODY_TOO_LARGE if too_large else error.detail
    errors = [{"field": field, "message": detail}] if field else None
    answer = problem(error.status_code, title.lower().replace(" ", "-"), title, detail, errors)
    if error.headers:  # such as the Allow of 405
        answer.headers = {**(answer.headers or {}), **error.headers}
    return answer


def _words(name: str) -> list[str]:
    spaced = "".join(f" {c}" if c.isupper() else c for c in name)
    return spaced.lower().split()


def _dashed(name: str) -> str:
    return "-".join(_words(name))


def _spaced(name: str) -> str:
    return " ".join(_words(name)).capitalize()
