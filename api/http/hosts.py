"""Which names a server may be called by, and which pages a browser may call it from.

Against DNS rebinding: the name of a foreign page may resolve to this machine, and its scripts could then read every
answer. Such a page always sends its own name as `Host`. An IP address is no such name.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NoReturn

from api.http.problems import AnyRequest, FieldProblem, problem

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443"}


def host_guard(host: str, names: Sequence[str]) -> Callable[[AnyRequest], None]:
    """Return the check of a request's `Host`, `Origin` and `Sec-Fetch-Site`, for a server that listens on `host`.

    It accepts `localhost`, `names`, and `host` itself; unless that is a loopback address, also the machine's name and
    every address.
    """
    known = LOOPBACK_NAMES | {name.lower() for name in (host, *names)}
    reachable = not is_loopback(host)
    if reachable:
        known |= {socket.gethostname().lower()}

    def check(request: AnyRequest) -> None:
        given = request.headers.getall("host", [])
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        name = match[1].lower() if match else ""
        if match is None or not (name in known or (reachable and _is_address(name))):
            expected = ", ".join(sorted(known))
            also = " or an address" if reachable else ""
            _refuse(
                HTTPStatus.BAD_REQUEST,
                "Host",
                f"must be one of {expected}{also}, with any port. HOST_NAMES lists further names of this server",
            )
        _check_origin(request, name, match[2])

    return check


def _check_origin(request: AnyRequest, name: str, port: str | None) -> None:
    """Refuse requests that a page of another site, or of another port, makes a browser send."""
    origin = request.headers.get("origin")
    if origin is not None:
        scheme, _, place = origin.partition("://")
        match = _HOST.fullmatch(place) if scheme in _PORTS else None
        ports = {port} if port else set(_PORTS.values())  # a proxy that ends TLS may leave the port out
        if match is None or match[1].lower() != name or (match[2] or _PORTS[scheme]) not in ports:
            _refuse(HTTPStatus.FORBIDDEN, "Origin", "must be this server: pages of other sites may not call it")
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        _refuse(HTTPStatus.FORBIDDEN, "Sec-Fetch-Site", "must be same-origin: pages of other sites may not call this")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _refuse(status: int, field: str, why: str) -> NoReturn:
    title = "Invalid input" if status == HTTPStatus.BAD_REQUEST else "Forbidden"
    raise problem(status, title, f"{field}: {why}", FieldProblem(field, why))
