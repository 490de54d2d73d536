"""Errors as problem details (RFC 9457). The only place that knows which error has which status."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from litestar.exceptions import HTTPException, ValidationException
from litestar.plugins.problem_details import ProblemDetailsConfig, ProblemDetailsException, ProblemDetailsPlugin
from litestar.status_codes import (
    HTTP_400_BAD_REQUEST,
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

from domain.errors import (
    CommandReused,
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    ThreadfoldError,
    UnknownGraph,
    UnopenedThread,
    VersionConflict,
)

_STATUS: tuple[tuple[type[ThreadfoldError], int], ...] = (
    (InvalidInput, HTTP_400_BAD_REQUEST),
    (UnknownGraph, HTTP_422_UNPROCESSABLE_ENTITY),
    (NotFound, HTTP_404_NOT_FOUND),
    (UnopenedThread, HTTP_404_NOT_FOUND),
    (VersionConflict, HTTP_412_PRECONDITION_FAILED),
    (CommandReused, HTTP_422_UNPROCESSABLE_ENTITY),
    (Conflict, HTTP_409_CONFLICT),
    (StoreUnavailable, HTTP_503_SERVICE_UNAVAILABLE),
)
"""The first that fits counts; anything else is 500."""

RETRY_AFTER = "2"
"""Seconds after which a caller may try again when we cannot serve."""

_FIELDS: Mapping[type[ThreadfoldError], str] = {
    UnknownGraph: "graph",
    CommandReused: "Idempotency-Key",
    VersionConflict: "checkpoint_ref",
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


def problem(
    status: int, kind: str, title: str, detail: str, errors: list[dict[str, str]] | None = None
) -> ProblemDetailsException:
    """Make a problem document. `errors` names each wrong field and says what was expected of it."""
    return ProblemDetailsException(
        status_code=status,
        type_=f"urn:threadfold:{kind}",
        title=title,
        detail=detail,
        headers={"Retry-After": RETRY_AFTER} if status == HTTP_503_SERVICE_UNAVAILABLE else None,
        extra={"errors": errors} if errors else None,
    )


def problem_plugin() -> ProblemDetailsPlugin:
    """Make every error that leaves the API a problem document."""
    return ProblemDetailsPlugin(
        ProblemDetailsConfig(
            exception_to_problem_detail_map={
                ThreadfoldError: _of_domain,
                HTTPException: _of_http,
                ValidationException: _of_validation,
            }
        )
    )


def _of_domain(error: ThreadfoldError) -> ProblemDetailsException:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTP_500_INTERNAL_SERVER_ERROR)
    name = type(error).__name__
    field = error.field if isinstance(error, InvalidInput) else _field_of(error)
    why = error.why if isinstance(error, InvalidInput) else str(error)
    errors = [{"field": field, "message": why}] if field else None
    return problem(status, _dashed(name), _spaced(name), str(error), errors)


def _field_of(error: ThreadfoldError) -> str | None:
    return next((field for kind, field in _FIELDS.items() if isinstance(error, kind)), None)


def _of_validation(error: ValidationException) -> ProblemDetailsException:
    given: list[Any] = error.extra if isinstance(error.extra, list) else []
    errors = [_one_of_validation(e) for e in given if isinstance(e, dict)]
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors) or error.detail
    return problem(HTTP_400_BAD_REQUEST, "invalid-input", "Invalid input", detail, errors)


def _one_of_validation(error: Mapping[str, Any]) -> dict[str, str]:
    """Name the field that the framework complains of. It calls the body `data`, and says no more if there is none."""
    key = str(error.get("key") or "body")
    if key == "data":
        return {"field": "body", "message": "is required: a JSON object"}
    return {"field": key, "message": str(error.get("message", "is not valid"))}


def _of_http(error: HTTPException) -> ProblemDetailsException:
    if isinstance(error, ProblemDetailsException):
        return error
    title = HTTPStatus(error.status_code).phrase
    field = _HTTP_FIELDS.get(error.status_code)
    errors = [{"field": field, "message": error.detail}] if field else None
    return problem(error.status_code, title.lower().replace(" ", "-"), title, error.detail, errors)


def _words(name: str) -> list[str]:
    spaced = "".join(f" {c}" if c.isupper() else c for c in name)
    return spaced.lower().split()


def _dashed(name: str) -> str:
    return "-".join(_words(name))


def _spaced(name: str) -> str:
    return " ".join(_words(name)).capitalize()
