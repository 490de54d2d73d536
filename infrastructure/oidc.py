"""Verifies bearer tokens of an OIDC issuer with the issuer's published keys.

Only keys of the configured issuer count: what a token says about its own key (`jwk`, `jku`, `x5u`, `x5c`) is ignored.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from joserfc import jws
from joserfc.errors import JoseError

from domain.application.identity.authenticate import Clock
from domain.errors import InvalidInput, Unauthenticated
from domain.identity.principal import Principal
from domain.identity.scopes import SCOPES, Scope
from domain.identity.tenants import tenant_of
from domain.ids import DEFAULT_TENANT, Tenant
from domain.lru import Lru
from infrastructure.oidc_keys import MAX_KID_CHARACTERS, IssuerKeys, OidcConfig

ALGORITHMS = ("RS256", "ES256", "EdDSA", "RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "Ed25519")
"""Algorithms that settings may allow: signatures with a public key. With HS256 and the like, the issuer's public key
would be the secret; `none` is no signature at all."""

CACHED_S = 60.0
"""Seconds for which a verified token is not verified again."""

LEEWAY = timedelta(seconds=60)
"""By how much the issuer's clock and this one may differ."""

MAX_TOKEN_CHARACTERS = 8_192
MAX_CACHED_TOKENS = 10_000
MAX_NAME_CHARACTERS = 200
MAX_SECONDS = 253_402_300_799
"""The last second that a date can name: the end of the year 9999."""

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class OidcVerifier:
    """Verifies tokens. It is a `TokenVerifier`."""

    def __init__(self, config: OidcConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._keys = IssuerKeys(config, self._forget)
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
