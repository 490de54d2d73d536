"""What people said, and what their threads hold. Whoever is shown any of it is recorded first: see `access_log`."""

from collections.abc import Sequence

from api.http.caller import Caller
from api.runtime.composition import Runtime
from api.schemas.approvals import ApprovalView, waiting_approvals
from api.schemas.events import EventView
from api.schemas.history import DiffView
from api.schemas.page import Page
from api.schemas.prompts import ContextView, context_view
from api.services.access_log import AccessLogService
from api.services.history import NOW, PageRequest, PointInTime, ThreadHistory
from api.services.read_models import Filters, ReadModelQueries
from api.services.verification import Verification
from domain.application.audit.proofs import Proof
from domain.application.queries.prompts import recorded_prompts
from domain.application.queries.transcript import TranscriptMessage
from domain.application.streaming.feed import FeedCursor as FeedPlace
from domain.application.streaming.feed import FeedFilter, FeedPage
from domain.application.thread_repository import LoadedThread
from domain.errors import InvalidInput
from domain.ids import ThreadId, TurnId, Version
from domain.ports.log import ThreadRow
from projections.threads import ThreadSummary, summary


class Content:
    """Every query that shows what is in threads. Each raises `StoreUnavailable` where it cannot be recorded."""

    def __init__(
        self, runtime: Runtime, reads: AccessLogService, reading: ReadModelQueries, audit: Verification
    ) -> None:
        """Ask the parts of the service that look it up."""
        self._runtime = runtime
        self._reads = reads
        self._reading = reading
        self._audit = audit

    async def threads(self, filters: Filters, cursor: str | None, limit: int, caller: Caller) -> Page[ThreadSummary]:
        """List threads, by the read model."""
        page = await self._reading.threads(caller.tenant, filters, cursor, limit)
        await self._reads.of_threads(caller, "list", (ThreadId(one.thread_id) for one in page.items))
        return page

    async def summary(self, thread_id: ThreadId, caller: Caller, point: PointInTime = NOW) -> ThreadSummary:
        """Summarise a thread as it is now, was at a version, or was at an instant, by folding it."""
        loaded = await self._past(caller).state(thread_id, point)
        row = await self._runtime.repository.store.thread(thread_id)
        await self._reads.of_thread(caller, "summary", thread_id)
        return summary(loaded, row.opened_at if row else loaded.head.at, self._runtime.prices)

    async def eventual_summary(self, thread_id: ThreadId, caller: Caller) -> ThreadSummary:
        """Summarise a thread as the read model has it. Raises `UnknownThread`: it is not there, or not there yet."""
        found = await self._reading.thread(thread_id, caller.tenant)
        await self._reads.of_thread(caller, "summary", thread_id)
        return found

    async def state(self, thread_id: ThreadId, point: PointInTime, caller: Caller) -> LoadedThread:
        """Return a thread's state: now, at a version, or at an instant."""
        loaded = await self._past(caller).state(thread_id, point)
        await self._reads.of_thread(caller, "state", thread_id)
        return loaded

    async def messages(self, thread_id: ThreadId, asked: PageRequest, caller: Caller) -> Page[TranscriptMessage]:
        """Read a page of the transcript."""
        page = await self._past(caller).messages(thread_id, asked)
        if page.items:
            await self._reads.of_thread(caller, "messages", thread_id)
        return page

    async def events(self, thread_id: ThreadId, asked: PageRequest, caller: Caller) -> Page[EventView]:
        """Read a page of a thread's events."""
        page = await self._past(caller).events(thread_id, asked)
        if page.items:
            await self._reads.of_thread(caller, "events", thread_id)
        return page

    async def diff(
        self,
        thread_id: ThreadId,
        since: PointInTime,
        until: PointInTime,
        limit: int,
        cursor: str | None,
        caller: Caller,
    ) -> DiffView:
        """Say what happened between two points."""
        view = await self._past(caller).diff(thread_id, since, until, limit, cursor)
        await self._reads.of_thread(caller, "diff", thread_id)
        return view

    async def recorded_prompts(
        self, thread_id: ThreadId, turn_id: TurnId, caller: Caller, after: int = 0
    ) -> ContextView:
        """Show what the models of a turn saw after a version. Raises `UnknownThread`, `UnknownTurn`."""
        runtime = self._runtime
        loaded = await runtime.repository.existing(thread_id, caller.tenant)
        tokens = runtime.turns.services.tokens
        found, more = await recorded_prompts(runtime.repository, runtime.texts, tokens, loaded, turn_id, after)
        await self._reads.of_thread(caller, "context", thread_id)
        return context_view(thread_id, turn_id, found, more=more)

    async def approvals(self, thread_id: ThreadId, caller: Caller) -> Sequence[ApprovalView]:
        """List what waits for a person in a thread. Raises `UnknownThread`."""
        found = waiting_approvals((await self._runtime.repository.existing(thread_id, caller.tenant)).state)
        if found:
            await self._reads.of_thread(caller, "approvals", thread_id)
        return found

    async def proof(self, thread_id: ThreadId, version: int, caller: Caller) -> Proof:
        """Prove that an event, which the proof shows, is in the sealed log."""
        proof = await self._audit.prove(thread_id, version, caller.tenant)
        await self._reads.of_threads(caller, "proof", (thread_id, proof.record.thread_id))
        return proof

    async def watched(
        self, thread_id: ThreadId, caller: Caller, after: Version | None = None, field: str = "after"
    ) -> ThreadRow:
        """Say where a thread ends that the caller is going to follow, after a version or from now on.

        Raises `UnknownThread`; and `InvalidInput`, naming the field, for a version that the thread does not have yet:
        the caller would hear nothing until it does, and then miss what came before.
        """
        row = await self._runtime.repository.row(thread_id, caller.tenant)
        if after is not None and after > row.head.version:
            last = row.head.version
            raise InvalidInput(field, f"the thread has versions up to {last}; give one of them, or none to begin now")
        await self._reads.of_thread(caller, "stream", thread_id)
        return row

    async def feed(self, place: FeedPlace, wanted: FeedFilter, wait: float, caller: Caller) -> FeedPage:
        """Read a page of the feed."""
        found = await self._runtime.feed.read(place, wanted, wait, self._runtime.stopping)
        await self._reads.of_threads(caller, "feed", (record.thread_id for record in found.records))
        return found

    def _past(self, caller: Caller) -> ThreadHistory:
        return ThreadHistory(self._runtime.repository, caller.tenant)
