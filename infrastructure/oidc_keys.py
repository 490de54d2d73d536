"""The keys with which an OIDC issuer signs its tokens: fetched, bounded and cached.

Keys are fetched when the first token comes, so a server starts while its issuer is down. Afterwards a fetch never
delays tokens whose key is known, and any number of tokens with unknown keys causes one fetch in `REFETCH_S`.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc import jwk
from joserfc.errors import JoseError

from domain.errors import IssuerUnavailable, Unauthenticated

FRESH_S = 300.0
"""Seconds after a fetch in which the keys count as current. Then they are fetched again in the background."""

TRUSTED_S = 3_600.0
"""Seconds after a fetch in which the keys are used while the issuer does not answer."""

REFETCH_S = 30.0
"""Seconds between two fetches, whatever tokens come."""

RETRY_S = 5.0
"""Seconds between two fetches while there are no keys at all."""

FETCH_LIMIT_S = 5.0
"""Seconds that a fetch may take, with the metadata."""

MAX_BODY_BYTES = 256 * 1024
MAX_KEYS = 100
MAX_KID_CHARACTERS = 512

_MEMBERS = {
    "RSA": {"n": range(342, 1_367), "e": range(1, 9)},  # base64 of 2,048 to 8,192 bits: larger ones take too long
    "EC": {"x": range(1, 200), "y": range(1, 200), "crv": range(1, 20)},
    "OKP": {"x": range(1, 200), "crv": range(1, 20)},
}
"""The members of a public key, and how many characters each has."""

_log = logging.getLogger(__name__)


class OidcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is accepted as a token, and which of its claims mean what. Claims may be paths such as `realm.roles`."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    tenant_claim: str | None = None
    """None: all tokens belong to the default tenant."""
    principal_claim: str = "sub"
    scopes_claim: str = "scope"
    scopes_prefix: str = ""
    """Only values with this prefix count, without it."""
    jwks_url: str | None = None
    """None: the issuer's metadata names it."""


def is_loopback_url(url: str) -> bool:
    """Return whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None


def check_url(url: str) -> str:
    """Return a URL that a fetch may take: https, or http to this machine. Raises `ValueError`."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or re.search(r"[\s@#\\\x00-\x1f]", url) or len(url) > 2_000:  # noqa: PLR2004
        raise ValueError("expected a URL such as https://login.example.com/realm, without a user and a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback_url(url)):
        raise ValueError("expected https://, or http:// to this machine: others could exchange the keys on their way")
    return url


class IssuerKeys:
    """The issuer's keys, fetched when they are needed."""

    def __init__(self, config: OidcConfig, changed: Callable[[], None]) -> None:
        """`changed` is called when the issuer has other keys than before."""
        self._config = config
        self._changed = changed
        self._found: Mapping[str, Mapping[str, str]] = {}
        self._imported: dict[str, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._failure: str | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._tls = httpx.create_ssl_context()

    async def key(self, kid: str) -> Any:
        """Return a key by its name. Raises `Unauthenticated` and `IssuerUnavailable`."""
        now = asyncio.get_running_loop().time()
        usable = now - self._fetched_at < TRUSTED_S
        if usable and kid in self._found:
            if now - self._fetched_at >= FRESH_S:
                self._fetch(now)
            return self._import(kid)
        if (fetching := self._fetch(now)) is not None:
            await asyncio.shield(fetching)
            usable = self._failure is None or usable
        if usable and kid in self._found:
            return self._import(kid)
        if self._failure is not None:
            raise IssuerUnavailable(f"The issuer of tokens does not answer as expected: {self._failure}. Retry later.")
        raise Unauthenticated(
            f"The token's header `kid` names {kid[:60]!r}, which is no key of the issuer; it was asked for its keys."
        )

    async def close(self) -> None:
        """Cancel a fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _import(self, kid: str) -> Any:
        if kid not in self._imported:
            try:
                self._imported[kid] = jwk.import_key(dict(self._found[kid]))
            except (JoseError, ValueError, TypeError, KeyError):
                raise Unauthenticated(
                    f"The token's header `kid` names {kid[:60]!r}, which the issuer publishes in an invalid form."
                ) from None
        return self._imported[kid]

    def _fetch(self, now: float) -> asyncio.Task[None] | None:
        """Return the fetch that runs, or begin one; None if it is too early for another one."""
        if self._fetching is None and now - self._tried_at >= (REFETCH_S if self._found else RETRY_S):
            self._tried_at = now
            self._fetching = asyncio.create_task(self._try(), name="oidc_keys")
        return self._fetching

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(FETCH_LIMIT_S):
                found = await self._published()
        except TimeoutError:
            self._fail(f"no answer within {FETCH_LIMIT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, _BadAnswer, OSError) as error:
            self._fail(str(error) or type(error).__name__)
        else:
            if found != self._found:
                self._found = found
                self._imported.clear()
                self._changed()
            self._fetched_at, self._failure = asyncio.get_running_loop().time(), None
        finally:
            self._fetching = None

    def _fail(self, why: str) -> None:
        self._failure = why[:300]
        _log.warning("The keys of the issuer %s could not be fetched: %s", self._config.issuer, self._failure)

    async def _published(self) -> Mapping[str, Mapping[str, str]]:
        limits = httpx.Timeout(FETCH_LIMIT_S)
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=limits) as client:
            url = self._config.jwks_url or await self._jwks_url(client)
            keys = (await _get(client, url)).get("keys")
        if not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise _BadAnswer(f"{url} must have a list `keys` of at most {MAX_KEYS} keys")
        found: dict[str, Mapping[str, str]] = {}
        for key in keys:
            if isinstance(key, dict) and (public := _public(key)) is not None:
                found.setdefault(public["kid"], public)
        return found

    async def _jwks_url(self, client: httpx.AsyncClient) -> str:
        issuer = self._config.issuer
        metadata = await _get(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:
            raise _BadAnswer(f"its metadata must name the issuer {issuer!r}, not {str(metadata.get('issuer'))[:100]!r}")
        url = metadata.get("jwks_uri")
        try:
            checked = check_url(url if isinstance(url, str) else "")
        except ValueError as error:
            raise _BadAnswer(f"jwks_uri of its metadata: {error}") from None
        if is_loopback_url(checked) and not is_loopback_url(issuer):
            raise _BadAnswer("jwks_uri of its metadata names this machine")
        return checked


class _BadAnswer(Exception):
    """The issuer's answer is not what it should be."""


async def _get(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Read a JSON object. Raises `_BadAnswer` and `httpx.HTTPError`."""
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as got:
        if got.status_code != httpx.codes.OK:
            raise _BadAnswer(f"{url} answered with the status {got.status_code} instead of 200")
        if got.headers.get("content-encoding", "identity") != "identity":
            raise _BadAnswer(f"{url} answered with compressed content, which was not asked for")
        async for part in got.aiter_raw():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise _BadAnswer(f"{url} answered with more than {MAX_BODY_BYTES:,} bytes")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _BadAnswer(f"{url} did not answer with a JSON object") from None


def _public(key: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the public part of a published key; None if it is not one for signatures that can be checked here."""
    kid, kind = key.get("kid"), key.get("kty")
    members = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None or not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_CHARACTERS:
        return None
    uses = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    public = {name: key.get(name) for name in members}
    if not all(isinstance(value, str) and len(value) in members[name] for name, value in public.items()):
        return None
    if kind != "OKP" and isinstance(key.get("alg"), str):  # the curve says it, and EdDSA has two names
        public["alg"] = key["alg"]
    return {"kty": str(kind), "kid": kid, **{name: str(value) for name, value in public.items()}}
