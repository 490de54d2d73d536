"""Verifies bearer tokens of an OIDC issuer with the issuer's published keys.

Only keys of the configured issuer count: what a token says about its own key (`jwk`, `jku`, `x5u`, `x5c`) is ignored.
Keys are fetched when the first token comes, so a server starts while its issuer is down. Afterwards a fetch never
delays tokens whose key is known, and any number of tokens with unknown keys causes one fetch in `REFETCH_S`.
"""

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc import jwk, jws
from joserfc.errors import JoseError

from domain.application.identity.authenticate import Clock
from domain.errors import InvalidInput, IssuerUnavailable, Unauthenticated
from domain.identity.principal import Principal
from domain.identity.scopes import SCOPES, Scope
from domain.identity.tenants import tenant_of
from domain.ids import DEFAULT_TENANT, Tenant
from domain.lru import Lru

ALGORITHMS = ("RS256", "ES256", "EdDSA", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "Ed25519")
"""Algorithms that settings may allow: signatures with a public key. With HS256 and the like, the issuer's public key
would be the secret; `none` is no signature at all."""

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

CACHED_S = 60.0
"""Seconds for which a verified token is not verified again."""

LEEWAY = timedelta(seconds=60)
"""By how much the issuer's clock and this one may differ."""

MAX_BODY_BYTES = 256 * 1024
MAX_KEYS = 100
MAX_TOKEN_CHARACTERS = 8_192
MAX_CACHED_TOKENS = 10_000
MAX_NAME_CHARACTERS = 200
MAX_KID_CHARACTERS = 512
MAX_SECONDS = 253_402_300_799
"""The last second that a date can name: the end of the year 9999."""

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
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


class OidcVerifier:
    """Verifies tokens. It is a `TokenVerifier`."""

    def __init__(self, config: OidcConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._keys = _IssuerKeys(config, self._forget)
        self._registry = _Registry(algorithms=config.algorithms, strict_check_header=False)
        self._verified: Lru[bytes, tuple[float, Principal]] = Lru(MAX_CACHED_TOKENS, MAX_CACHED_TOKENS)

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token.

        Raises:
            Unauthenticated: it is not valid. The message names the claim.
            IssuerUnavailable: its key is not known, and the issuer does not answer.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Unauthenticated(f"A token must be at most {MAX_TOKEN_CHARACTERS:,} characters.")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        if (cached := self._cached(digest)) is not None:
            return cached
        header = _object(_decoded(token.partition(".")[0]), "header")
        key = await self._keys.key(self._checked_kid(header))
        try:
            payload = jws.deserialize_compact(token, key, self._config.algorithms, self._registry).payload
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Unauthenticated("The token's signature is not of the issuer's key that its `kid` names.") from None
        principal = self._principal(_object(payload or b"", "payload"))
        self._verified.put(digest, (asyncio.get_running_loop().time() + CACHED_S, principal), 1)
        return principal

    async def close(self) -> None:
        """Stop a fetch that runs."""
        await self._keys.close()

    def _forget(self) -> None:
        self._verified.clear()

    def _cached(self, digest: bytes) -> Principal | None:
        entry = self._verified.get(digest)
        if entry is None:
            return None
        until, principal = entry
        ended = principal.expires_at is not None and principal.expires_at <= self._clock.now()
        if ended or until <= asyncio.get_running_loop().time():
            self._verified.discard(digest)
            return None
        return principal

    def _checked_kid(self, header: Mapping[str, Any]) -> str:
        """Return the name of a token's key. Raises `Unauthenticated`."""
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in self._config.algorithms:
            _refuse("header `alg`", f"must be one of {', '.join(self._config.algorithms)}")
        if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_CHARACTERS:
            _refuse("header `kid`", f"must name a key of the issuer, with 1 to {MAX_KID_CHARACTERS} characters")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            _refuse("header `typ`", "must be JWT or at+jwt")
        if "crit" in header or "b64" in header:
            _refuse("header `crit`", "names extensions, which are not supported")
        return kid

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        config = self._config
        if claims.get("iss") != config.issuer:
            _refuse("claim `iss`", f"must be {config.issuer!r}")
        audience = claims.get("aud")
        if audience != config.audience and not (isinstance(audience, list) and config.audience in audience):
            _refuse("claim `aud`", f"must be or contain {config.audience!r}")
        expires_at = self._check_times(claims)
        tenant, name = DEFAULT_TENANT, _claim(claims, config.principal_claim)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS or _INVISIBLE.search(name):
            expected = f"must be 1 to {MAX_NAME_CHARACTERS} characters, without control characters"
            _refuse(f"claim `{config.principal_claim}`", expected)
        if config.tenant_claim is not None:
            tenant = _tenant(_claim(claims, config.tenant_claim), config.tenant_claim)
        return Principal(tenant, name, self._scopes(claims), expires_at=expires_at)

    def _check_times(self, claims: Mapping[str, Any]) -> datetime:
        """Return when a token expires. Raises `Unauthenticated`: it has, or it is not valid yet."""
        now = self._clock.now()
        if (expires_at := _instant(claims, "exp")) is None:
            _refuse("claim `exp`", "is missing: a token must end")
        if expires_at + LEEWAY <= now:
            _refuse("claim `exp`", f"is in the past: the token expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}")
        for name in ("nbf", "iat"):
            begins_at = _instant(claims, name)
            if begins_at is not None and begins_at > now + LEEWAY:
                _refuse(f"claim `{name}`", "is in the future; compare the clocks of the issuer and of this server")
        return expires_at

    def _scopes(self, claims: Mapping[str, Any]) -> tuple[Scope, ...]:
        name, prefix = self._config.scopes_claim, self._config.scopes_prefix
        value = _claim(claims, name)
        values = value.split() if isinstance(value, str) else [] if value is None else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            _refuse(f"claim `{name}`", "must be a text of scopes with spaces between them, or a list of texts")
        given = {one.removeprefix(prefix) for one in values if one.startswith(prefix)}
        return tuple(scope for scope in SCOPES if scope in given)


class _Registry(jws.JWSRegistry):
    """Looks algorithms up among those allowed, without joserfc's warning about the name EdDSA, which issuers use."""

    max_header_length = MAX_TOKEN_CHARACTERS

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise JoseError
        return self.algorithms[name]


class _IssuerKeys:
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
        return _refuse("header `kid`", f"names {kid[:60]!r}, which is no key of the issuer; it was asked for its keys")

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
                _refuse(
                    "header `kid`", f"names {kid[:60]!r}: the issuer publishes this key in a form that is not valid"
                )
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


def _decoded(segment: str) -> bytes:
    """Decode base64url without padding. Raises `Unauthenticated`."""
    try:
        return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise Unauthenticated("The token's header is not base64url; it is mistyped or cut off.") from None


def _object(text: bytes, part: str) -> Mapping[str, Any]:
    """Parse a part of a token. Names may not repeat: parsers disagree about which one counts."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unauthenticated(f"The token's {part} must be a JSON object without repeated names.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated name")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, else by its path. None if there is none."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _instant(claims: Mapping[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_SECONDS - 86_400:
        _refuse(f"claim `{name}`", "must be a number of seconds since 1970")
    return datetime.fromtimestamp(value, UTC)


def _tenant(value: object, claim: str) -> Tenant:
    if not isinstance(value, str):
        _refuse(f"claim `{claim}`", "must be the name of a tenant")
    try:
        return tenant_of(value, claim)
    except InvalidInput as error:
        return _refuse(f"claim `{claim}`", error.why)


def _refuse(part: str, why: str) -> NoReturn:
    raise Unauthenticated(f"The token's {part} {why}.")
