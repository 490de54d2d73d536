"""Checks of every request before its handler runs."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import NoReturn

from litestar import Response
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from api.http.hosts import host_guard
from api.http.problems import MAX_TEXT_CHARACTERS, AnyRequest, FieldProblem, problem
from domain.json import check_text

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def guard(host: str, names: Sequence[str] = ()) -> Callable[[AnyRequest], Awaitable[Response[None] | None]]:
    """Return the check of all requests to a server that listens on `host`, and that also has other names."""
    check_host = host_guard(host, names)

    async def check(request: AnyRequest) -> Response[None] | None:
        check_host(request)
        _refuse_unknown_paths(request)
        _refuse_wrong_parameters(request)
        return _methods(request) if request.method == HttpMethod.OPTIONS else None

    return check


def _methods(request: AnyRequest) -> Response[None]:
    """Answer OPTIONS. Litestar's own answer lists only the methods of the path's first handler."""
    path = request.scope["path_template"]
    methods = {
        method for route in request.app.routes if path in {route.path, route.path_format} for method in route.methods
    }
    return Response(None, status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(sorted(methods))})


def _refuse_unknown_paths(request: AnyRequest) -> None:
    """Answer 404 for unknown paths below /schema, where Litestar would answer with an HTML page."""
    if request.scope["path"].startswith("/schema/") and request.path_params:
        raise NotFoundException


def _refuse_wrong_parameters(request: AnyRequest) -> None:
    """Refuse parameters that the route does not have, or that come twice: a misspelt `at_version` must not mean "now".

    Also refuse text that PostgreSQL cannot compare, and null, which the framework treats as absent.
    """
    if not request.scope["query_string"]:
        return
    known = _parameters(request.route_handler)
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            _refuse(name, "is not a parameter of this path")
        if count > 1:
            _refuse(name, "is given more than once")
    for name, value in request.query_params.multi_items():
        check_text(value, name)
        if value.lower() == "null" and str not in known[name]:
            _refuse(name, "must have a value; omit it for none")
        if datetime in known[name] and not _DATE.match(value):
            _refuse(name, "must be an instant such as 2026-11-23T10:00:00Z")


@cache
def _parameters(route: BaseRouteHandler) -> Mapping[str, frozenset[object]]:
    """Return the parameters of a route and of what it depends on, with their types.

    Any word is valid text, but no number is a time.
    """
    dependencies = route.resolve_dependencies().values()
    signatures = [route.parsed_fn_signature, *(provider.parsed_fn_signature for provider in dependencies)]
    return {
        given.kwarg_definition.name or name: frozenset(
            {given.annotation, *(inner.annotation for inner in given.inner_types)}
        )
        for signature in signatures
        for name, given in signature.parameters.items()
        if isinstance(given.kwarg_definition, QueryParameter)
    }


def _refuse(field: str, why: str) -> NoReturn:
    field = field[:MAX_TEXT_CHARACTERS]
    raise problem(HTTPStatus.BAD_REQUEST, "Invalid input", f"{field}: {why}", FieldProblem(field, why))
