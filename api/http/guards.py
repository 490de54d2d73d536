"""Checks of every request before its handler runs."""

import ipaddress
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import cache
from http import HTTPStatus
from typing import NoReturn

from litestar import Response
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from api.http.problems import MAX_TEXT_CHARACTERS, AnyRequest, FieldProblem, problem
from domain.json import check_text

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?", re.IGNORECASE)


def guard(host: str) -> Callable[[AnyRequest], Awaitable[Response[None] | None]]:
    """Return the check of all requests to a server that listens on `host`."""
    names = _names(host)

    async def check(request: AnyRequest) -> Response[None] | None:
        _refuse_foreign_hosts(request, names)
        _refuse_foreign_origins(request)
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


def _names(host: str) -> frozenset[str] | None:
    """Return the names under which a server may be requested; None if any is allowed."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    return LOOPBACK_NAMES | {host.lower()} if loopback else None


def _refuse_foreign_hosts(request: AnyRequest, names: frozenset[str] | None) -> None:
    """Refuse other names, against DNS rebinding: the name of a foreign page may resolve to 127.0.0.1."""
    if names is not None and _host_of(request) not in names:
        _refuse(HTTPStatus.BAD_REQUEST, "Host", f"must be one of {', '.join(sorted(names))}, with any port")


def _refuse_foreign_origins(request: AnyRequest) -> None:
    """Refuse requests that a page of another site makes a browser send."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    scheme, _, host = origin.partition("://")
    match = _HOST.fullmatch(host) if scheme in {"http", "https"} else None
    if match is None or match[1].lower() != _host_of(request):
        _refuse(HTTPStatus.FORBIDDEN, "Origin", "must be this server: pages of other sites may not call it")


def _host_of(request: AnyRequest) -> str | None:
    match = _HOST.fullmatch(request.headers.get("host", ""))
    return match[1].lower() if match else None


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
            _refuse(HTTPStatus.BAD_REQUEST, name, "is not a parameter of this path")
        if count > 1:
            _refuse(HTTPStatus.BAD_REQUEST, name, "is given more than once")
    for name, value in request.query_params.multi_items():
        check_text(value, name)
        if value.lower() == "null" and str not in known[name]:
            _refuse(HTTPStatus.BAD_REQUEST, name, "must have a value; omit it for none")
        if datetime in known[name] and not _DATE.match(value):
            _refuse(HTTPStatus.BAD_REQUEST, name, "must be an instant such as 2026-11-23T10:00:00Z")


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


def _refuse(status: int, field: str, why: str) -> NoReturn:
    title = "Invalid input" if status == HTTPStatus.BAD_REQUEST else "Forbidden"
    field = field[:MAX_TEXT_CHARACTERS]
    raise problem(status, title, f"{field}: {why}", FieldProblem(field, why))
