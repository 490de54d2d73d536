"""The audit of reads: who is shown what of which threads is recorded before it is shown."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from api.http.caller import Caller
from api.http.params import decode_cursor, encode_cursor, in_utc
from api.runtime.composition import Runtime
from api.schemas.access_log import AccessView, access_view
from api.schemas.page import Page
from domain.errors import InvalidInput
from domain.ids import Tenant, ThreadId
from domain.ports.access_log import Access, AccessCursor, AccessFilter, What


class AccessLogCursor(Struct, frozen=True, array_like=True):
    """Where a page of accesses ended."""

    at: Annotated[datetime, Meta(tz=True)]
    number: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class AccessLogService:
    """Records accesses, unless AUDIT_READS is off, and lists them. Who cannot be recorded is not shown anything."""

    def __init__(self, runtime: Runtime) -> None:
        """Work with what the composition root has joined."""
        self._log = runtime.accesses
        self._clock = runtime.clock
        self._repository = runtime.repository
        self._on = runtime.settings.audit_reads

    async def of_thread(self, caller: Caller, what: What, thread_id: ThreadId) -> None:
        """Record that a thread is shown: of a fork, also those that it left, whose events are its beginning.

        Raises `StoreUnavailable`.
        """
        if not self._on:
            return
        threads = [thread_id]
        while origin := await self._repository.origin(threads[-1]):
            threads.append(origin.parent)
        await self._record(caller, what, threads)

    async def of_threads(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        """Record that something of each of these threads is shown, if there are any. Raises `StoreUnavailable`."""
        if found := dict.fromkeys(threads):
            await self._record(caller, what, found)

    async def of_log(self, caller: Caller, what: What) -> None:
        """Record that everything there is is shown. Raises `StoreUnavailable`."""
        await self._record(caller, what, ())

    async def page(self, tenant: Tenant, only: AccessFilter, cursor: str | None, limit: int) -> Page[AccessView]:
        """List who was shown what, the last first. Raises `InvalidInput`."""
        if only.actor is not None and not only.actor.isprintable():
            raise InvalidInput("actor", "must be printable")
        before, of = None, ("reads", tenant, only)
        if cursor is not None:
            place = decode_cursor(cursor, AccessLogCursor, of)
            before = AccessCursor(in_utc(place.at, "cursor"), place.number)
        found = await self._log.page(tenant, only, before, limit + 1)
        shown = found[:limit]
        following = (
            encode_cursor(AccessLogCursor(shown[-1].access.at, shown[-1].number), of) if len(found) > limit else None
        )
        return Page([access_view(kept.access) for kept in shown], following)

    async def _record(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        if self._on:
            who = (caller.actor, caller.client, caller.correlation)
            access = Access(self._clock.now(), caller.tenant, what, caller.request, tuple(threads), *who)
            await self._log.record(access)
