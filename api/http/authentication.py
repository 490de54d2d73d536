"""Authentication of requests: who calls, and whether that principal has the scope of the route.

Each route declares its scope with `opt=needs(...)`. The application refuses to start with a route that does not.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as ConnectionScope

from domain.application.identity.authenticate import Authenticator
from domain.errors import Forbidden, ThreadfoldError, TooManyRequests, Unauthenticated
from domain.identity.principal import OPEN, Principal
from domain.identity.rates import Rate, RateLimiter, RateState
from domain.identity.scopes import Scope

SCOPE = "scope"
"""The key of a route's scope among its options."""

PUBLIC = "public"
"""In place of a scope: callers need not authenticate."""

AUTHENTICATED = "authenticated"
"""In place of a scope: any principal may call."""

LONG = "long"
"""The key that marks a route whose answer may take longer than a key lives: streams, and requests that wait."""

MAX_TOKEN_CHARACTERS = 8_192


def needs(scope: Scope, *, long: bool = False) -> dict[str, Any]:
    """Return the options of a route that takes a scope. `long`: it ends when the key is revoked."""
    return {SCOPE: scope, LONG: long}


def public() -> dict[str, Any]:
    """Return the options of a route that needs no authentication."""
    return {SCOPE: PUBLIC, LONG: False}


def for_any_principal() -> dict[str, Any]:
    """Return the options of a route that takes a valid key with any scope."""
    return {SCOPE: AUTHENTICATED, LONG: False}


class UndeclaredScope(ThreadfoldError):
    """A route does not declare the scope that it needs."""


def check_scopes(routes: Iterable[HTTPRouteHandler]) -> None:
    """Check that each route declares its scope, so that none is open by mistake. Raises `UndeclaredScope`."""
    for route in routes:
        if SCOPE not in route.opt:
            raise UndeclaredScope(f"{route} declares no scope. Add opt=needs(...) or opt=public() to it.")


@dataclass(frozen=True)
class RequestLimits:
    """What a key and a tenant may ask of this process. None: any number."""

    key_rate: Rate | None = None
    tenant_rate: Rate | None = None
    streams: int | None = None
    limiter: RateLimiter = field(default_factory=RateLimiter)

    def count(self, principal: Principal) -> RateState | None:
        """Count a request, and return how its rates stand; None if none is limited. Raises `TooManyRequests`."""
        buckets: list[tuple[object, Rate]] = []
        if self.key_rate:
            buckets.append((("key", principal.tenant, principal.key_id or principal.name), self.key_rate))
        if self.tenant_rate:
            buckets.append((principal.tenant, self.tenant_rate))
        state = self.limiter.take(buckets, time.monotonic())
        if state is not None and not state.allowed:
            raise TooManyRequests(
                f"More than {state.limit} requests at once, or more than the rate allows. Retry after "
                f"{state.retry_after} s.",
                state.retry_after,
            )
        return state

    def check_streams(self, opened: int) -> None:
        """Check that a tenant may open another stream. Raises `TooManyRequests`."""
        if self.streams is not None and opened >= self.streams:
            raise TooManyRequests(f"The tenant has {opened} streams and waiting requests open, the most it may.", 5)


def rate_of(per_second: float | None) -> Rate | None:
    """Return a rate that allows twice as many requests at once as in a second, and at least one."""
    return None if per_second is None else Rate(per_second, max(1, ceil(2 * per_second)))


class Authentication(ASGIMiddleware):
    """Authenticates each request before its body is read, and checks its scope.

    The principal is the request's `auth`.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits

    async def handle(self, scope: ConnectionScope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass a permitted request on. Raises `Unauthenticated` and `Forbidden`."""
        options = scope["route_handler"].opt
        wanted = options.get(SCOPE, PUBLIC)  # only the framework's own routes, of /schema, declare none
        if wanted == PUBLIC or scope["method"] == HttpMethod.OPTIONS:  # type: ignore[typeddict-item]
            scope["auth"] = OPEN
            await next_app(scope, receive, send)
            return
        authenticator: Authenticator = scope["litestar_app"].state.authenticator
        token = _token(scope["headers"])
        if token is not None:
            principal = await authenticator.authenticate(token)
        elif authenticator.required:
            raise Unauthenticated
        else:
            principal = OPEN
        scope["auth"] = principal
        if principal is not OPEN and (state := self._limits.count(principal)) is not None:
            send = _with_headers(send, state)
        if wanted != AUTHENTICATED and not principal.may(wanted):
            raise Forbidden(f"This takes the scope {wanted}; the key has {', '.join(principal.scopes) or 'none'}.")
        if options[LONG] and principal is not OPEN:
            self._limits.check_streams(authenticator.opened_by(principal.tenant))
            await _until_it_ends(authenticator, principal, next_app, scope, receive, send)
        else:
            await next_app(scope, receive, send)


def _with_headers(send: Send, state: RateState) -> Send:
    """Add to an answer how the caller's rate stands."""
    headers = [
        (f"ratelimit-{name}".encode(), str(value).encode())
        for name, value in (("limit", state.limit), ("remaining", state.remaining), ("reset", state.reset))
    ]

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return sending


async def _until_it_ends(
    authenticator: Authenticator,
    principal: Principal,
    next_app: ASGIApp,
    scope: ConnectionScope,
    receive: Receive,
    send: Send,
) -> None:
    """Pass a request on until the principal's key ends: then close the stream, or answer 401 if it has not begun."""
    began = False

    async def noting(message: Any) -> None:
        nonlocal began
        began = True
        await send(message)

    try:
        async with asyncio.timeout(None) as limit:

            def end() -> None:
                limit.reschedule(asyncio.get_running_loop().time())

            with authenticator.open(principal, end):
                await next_app(scope, receive, noting)
    except TimeoutError:
        if not limit.expired():
            raise
        if not began:
            raise Unauthenticated("The key was revoked or expired while the request waited.") from None
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _token(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the key of a request; None if it has none. Raises `Unauthenticated`: there are two, or it is malformed."""
    found = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value.strip())
        elif name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthenticated("Authorization must be of the scheme Bearer: Authorization: Bearer <key>.")
            found.add(credentials.strip())
    if not found:
        return None
    if len(found) > 1:
        raise Unauthenticated("The request has two different keys. Send one: Authorization: Bearer <key>.")
    token: bytes = found.pop()
    if not token.isascii() or not token.decode("latin-1").isprintable() or len(token) > MAX_TOKEN_CHARACTERS:
        raise Unauthenticated(f"A key or token must be at most {MAX_TOKEN_CHARACTERS:,} printable ASCII characters.")
    return token.decode("ascii")
