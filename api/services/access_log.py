"""The access log: which client was shown what of which threads, and what operators did.

An access is recorded before anything is shown or done.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

from msgspec import Meta

from api.http.caller import Caller, printable
from api.http.cursors import Zoned, decode_place, encode_cursor
from api.runtime.composition import Runtime
from api.schemas.access_log import AccessView
from api.schemas.page import Page
from api.schemas.view import view_of
from domain.errors import InvalidInput
from domain.ids import Tenant, ThreadId
from domain.ports.access_log import Access, AccessCursor, AccessFilter, Operation, What

MAX_REQUEST_CHARACTERS = 1_000
"""Characters of a request with its details that are recorded."""

AccessNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class AccessLogService:
    """Records accesses and operations, and lists them. AUDIT_READS turns off the record of accesses.

    Every query that shows what is in threads awaits one of the `record_` methods before it returns. They raise
    `StoreUnavailable` if the access cannot be recorded, so that nothing is shown then.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._log = runtime.log.accesses
        self._clock = runtime.clock
        self._repository = runtime.repository
        self._on = runtime.settings.audit_reads

    async def record_thread(self, caller: Caller, what: What, thread_id: ThreadId) -> None:
        """Record that a thread is shown. Of a fork, record its ancestors too: its first events are theirs."""
        await self.record_threads_and_ancestors(caller, what, [thread_id])

    async def record_threads_and_ancestors(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        """Record in one access that threads are shown, as `record_thread` does, if there are any."""
        if not self._on:
            return
        found: list[ThreadId] = []
        for thread_id in threads:
            found.append(thread_id)
            while origin := await self._repository.origin(found[-1]):
                found.append(origin.parent)
        await self.record_threads(caller, what, found)

    async def record_threads(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        """Record that something of each of these threads is shown, if there are any."""
        if found := dict.fromkeys(threads):
            await self._record(caller, what, found)

    async def record_log(self, caller: Caller, what: What) -> None:
        """Record that the whole log is shown."""
        await self._record(caller, what, ())

    async def record_list(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        """Record that these threads are listed. An empty list is recorded too: it answers a question."""
        if self._on:
            await self._record(caller, what, dict.fromkeys(threads))

    async def record_operation(
        self, caller: Caller, what: Operation, thread_id: ThreadId | None = None, **details: object
    ) -> None:
        """Record what an operator is about to do, also if AUDIT_READS is off, which is about reads.

        `details` are added to the request: what its body says. Operations that fail are recorded as well.
        """
        given = " ".join(f"{name}={value}" for name, value in details.items() if value is not None)
        request = printable(" ".join(filter(None, (caller.request, given))), MAX_REQUEST_CHARACTERS)
        threads = () if thread_id is None else (thread_id,)
        await self._store(replace(caller, request=request), what, threads)

    async def page(self, tenant: Tenant, only: AccessFilter, cursor: str | None, limit: int) -> Page[AccessView]:
        """List accesses, the latest first. Raises `InvalidInput`."""
        if only.actor is not None and not only.actor.isprintable():
            raise InvalidInput("actor", "must be printable")
        of = ("reads", tenant, only)
        place = decode_place(cursor, tuple[Zoned, AccessNumber], of)
        found = await self._log.page(tenant, only, AccessCursor(*place) if place else None, limit + 1)
        shown, following = found[:limit], None
        if len(found) > limit:
            following = encode_cursor((shown[-1].access.at, shown[-1].number), of)
        return Page([view_of(AccessView, numbered.access) for numbered in shown], following)

    async def _record(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        if self._on:
            await self._store(caller, what, threads)

    async def _store(self, caller: Caller, what: What, threads: Iterable[ThreadId]) -> None:
        who = (caller.actor, caller.client, caller.correlation, caller.principal)
        access = Access(self._clock.now(), caller.tenant, what, caller.request, tuple(threads), *who)
        await self._log.record(access)
