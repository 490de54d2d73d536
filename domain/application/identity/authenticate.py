"""Authenticates callers by their API keys or tokens, and ends what a revoked key has open.

Verified keys are cached, and a poll of the store drops those that changed. A cached key counts only while the last poll
is younger than `TRUSTED_S`: if the store does not answer, keys are looked up there again, which fails. So a revoked key
is refused within that time in every process, whatever happens to notifications between processes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from msgspec.structs import replace

from domain.errors import Unauthenticated
from domain.identity.api_keys import ApiKey, id_of
from domain.identity.principal import Principal
from domain.identity.tenants import TenantRecord
from domain.ids import Tenant
from domain.lru import Lru
from domain.ports.identity import CHANGES_SPAN_S, Changes, IdentityStore

POLL_INTERVAL_S = 0.3
"""Seconds between two polls of the store for changed keys and tenants."""

TRUSTED_S = 0.9
"""Seconds after a poll in which a cached key is accepted."""

MAX_CACHED_KEYS = 10_000
MAX_CACHED_TENANTS = 10_000

USES_INTERVAL = timedelta(minutes=1)
"""How often the last use of a key is written, at most."""

Mode: TypeAlias = Literal["auto", "required", "none"]

End: TypeAlias = Callable[[], object]
"""Ends what a principal has open."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the time in UTC."""


class TokenVerifier(Protocol):
    """Verifies tokens of an OIDC issuer."""

    async def verify(self, token: str) -> Principal:
        """Return the principal of a token. Raises `Unauthenticated` and `IssuerUnavailable`."""


class _Opened:
    """Something that a principal has open, such as a stream."""

    def __init__(self, principal: Principal, end: End) -> None:
        self.principal = principal
        self.end = end


class Authenticator:
    """Verifies keys and tokens. Run `run` in the background from the start, so that revocations are noticed."""

    def __init__(
        self, store: IdentityStore, clock: Clock, mode: Mode = "auto", tokens: TokenVerifier | None = None
    ) -> None:
        """`mode`: callers must authenticate always, never, or as soon as there is a key or an issuer of tokens."""
        self._mode = mode
        self._store = store
        self._clock = clock
        self._tokens = tokens
        self.required = mode == "required" or (mode == "auto" and tokens is not None)
        """Whether callers must authenticate now."""
        self.has_keys = False
        """Whether a key was ever made, as of the last poll."""
        self._keys: Lru[str, ApiKey] = Lru(MAX_CACHED_KEYS, MAX_CACHED_KEYS)
        self._tenants: Lru[Tenant, TenantRecord] = Lru(MAX_CACHED_TENANTS, MAX_CACHED_TENANTS)
        self._polled_at = float("-inf")
        self._uses: dict[str, datetime] = {}
        self._opened: set[_Opened] = set()
        self._opened_by: Counter[Tenant] = Counter()

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of a key or token.

        Raises:
            Unauthenticated: it is not valid, or its tenant is suspended.
            StoreUnavailable: it could not be looked up.
            IssuerUnavailable: the issuer's keys could not be looked up.
        """
        key_id = id_of(token)
        if key_id is not None:
            principal = await self._of_key(key_id, token)
        elif self._tokens is not None and token.count(".") == 2:  # noqa: PLR2004  (a JWT has three parts)
            principal = await self._tokens.verify(token)
        else:
            kinds = "an API key of Threadfold (tf_live_...)" + (" or a signed JWT" if self._tokens is not None else "")
            raise Unauthenticated(f"This is not {kinds}, or it is mistyped or cut off.")
        tenant = await self._tenant(principal.tenant)
        if tenant is None or tenant.suspended_at is not None:
            state = "unknown" if tenant is None else "suspended"
            raise Unauthenticated(f"The tenant {principal.tenant!r} is {state}.")
        return principal

    @contextmanager
    def open(self, principal: Principal, end: End) -> Iterator[None]:
        """Call `end` once if the principal's key or token ends, or its tenant is suspended, while the block runs."""
        opened = _Opened(principal, end)
        self._opened.add(opened)
        self._opened_by[principal.tenant] += 1
        try:
            yield
        finally:
            self._opened.discard(opened)
            self._opened_by[principal.tenant] -= 1
            if not self._opened_by[principal.tenant]:
                del self._opened_by[principal.tenant]

    def opened_by(self, tenant: Tenant) -> int:
        """Return how many streams and waiting requests a tenant has open at this process."""
        return self._opened_by[tenant]

    async def run(self) -> None:
        """Poll for changes until cancelled. Raises `StoreUnavailable`."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def poll(self) -> None:
        """Read what has changed, end what must end, and write when keys were used."""
        asked_at = asyncio.get_running_loop().time()  # a change that the answer lacks was made after this
        changes = await self._store.changes()
        if asked_at - self._polled_at > CHANGES_SPAN_S / 2:
            changes = await self._after_a_gap(changes)
        for key in changes.keys:
            if key.id in self._keys:
                self._keys.put(key.id, key, 1)
        for tenant in changes.tenants:
            self._tenants.put(tenant.name, tenant, 1)
        self._polled_at = asked_at
        self.has_keys = changes.has_keys
        if self._mode == "auto" and changes.has_keys:
            self.required = True
        self._end_opened(changes.keys, changes.tenants)
        if uses := self._uses:
            self._uses = {}
            await self._store.note_uses(uses)

    async def _after_a_gap(self, changes: Changes) -> Changes:
        """Forget the cache, and look up what is open: changes may be older than those that the store reports."""
        self._keys.clear()
        self._tenants.clear()
        keys = {opened.principal.key_id for opened in self._opened} - {None}
        names = {opened.principal.tenant for opened in self._opened}
        return Changes(
            [key for key_id in keys if key_id and (key := await self._store.key(key_id))],
            [tenant for name in names if (tenant := await self._store.tenant(name))],
            changes.has_keys,
        )

    async def _of_key(self, key_id: str, token: str) -> Principal:
        key = self._keys.get(key_id) if self._is_trusted() else None
        if key is None:
            key = await self._store.key(key_id)
            if key is None or not key.is_of(token):
                raise Unauthenticated("There is no such API key.")
            self._keys.put(key_id, key, 1)
        elif not key.is_of(token):
            raise Unauthenticated("There is no such API key.")
        now = self._clock.now()
        if (status := key.status(now)) != "active":
            raise Unauthenticated(f"The API key {key.name!r} ({key.id}) is {status}.")
        self._note_use(key, now)
        return Principal(key.tenant, key.principal, key.scopes, key.id, key.name, key.expires_at)

    async def _tenant(self, name: Tenant) -> TenantRecord | None:
        tenant = self._tenants.get(name) if self._is_trusted() else None
        if tenant is None and (tenant := await self._store.tenant(name)) is not None:
            self._tenants.put(name, tenant, 1)
        return tenant

    def _is_trusted(self) -> bool:
        return asyncio.get_running_loop().time() - self._polled_at < TRUSTED_S

    def _note_use(self, key: ApiKey, now: datetime) -> None:
        if key.last_used_at is None or now - key.last_used_at >= USES_INTERVAL:
            self._uses[key.id] = now
            self._keys.put(key.id, replace(key, last_used_at=now), 1)

    def _end_opened(self, keys: Sequence[ApiKey], tenants: Sequence[TenantRecord]) -> None:
        now = self._clock.now()
        ended = {key.id for key in keys if key.status(now) != "active"}
        suspended = {tenant.name for tenant in tenants if tenant.suspended_at is not None}
        for opened in list(self._opened):
            principal = opened.principal
            expired = principal.expires_at is not None and principal.expires_at <= now
            if expired or principal.key_id in ended or principal.tenant in suspended:
                self._opened.discard(opened)
                opened.end()
