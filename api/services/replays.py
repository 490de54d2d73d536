"""Replays: what would differ in the turns of threads that are named or match a filter."""

import asyncio
from collections.abc import Sequence

from api.http.caller import Caller
from api.runtime.composition import Runtime
from api.services.access_log import AccessLogService
from api.services.read_models import Filters, ReadModelQueries
from domain.agents.agent import Agent
from domain.application.replay.replay import Replay
from domain.application.replay.report import MAX_REPLAYED_THREADS, ReplayReport, ThreadToReplay, replay_threads
from domain.errors import StoreUnavailable, ThreadfoldError, UnknownThread
from domain.ids import Tenant, ThreadId
from domain.thread.state import Unopened

DEFAULT_THREADS = 20
"""Threads that match a filter and are replayed without a `limit`."""

CONCURRENT_THREADS = 4
"""Threads that this process replays at the same time, for all callers together."""


class Replays:
    """Replays threads. Nothing is stored except for the access, no tool is called, and no budget is charged.

    A live replay asks the models, which costs money.
    """

    def __init__(self, runtime: Runtime, access_log: AccessLogService, reading: ReadModelQueries) -> None:
        self._runtime = runtime
        self._access_log = access_log
        self._reading = reading
        self._slots = asyncio.Semaphore(CONCURRENT_THREADS)

    async def report(
        self,
        wanted: Sequence[ThreadId] | Filters,
        agent: Agent | None,
        caller: Caller,
        *,
        live: bool = False,
        only_different: bool = False,
        limit: int | None = None,
        time_limit_s: float | None = None,
    ) -> ReplayReport:
        """Replay threads by `agent`, or each by its own. The access is recorded.

        `limit` is how many threads are replayed at most, by default all that are named, or `DEFAULT_THREADS`.

        Raises:
            UnknownThread: a named thread does not exist; `field` is its place in `threads`.
            InvalidInput: the filter's search has only words that are too common.
            StoreUnavailable: the log cannot be read.
        """
        tenant = caller.tenant
        if isinstance(wanted, Filters):
            page = await self._reading.matching(wanted, None, limit or DEFAULT_THREADS, tenant)
            found, more = [ThreadId(one.thread_id) for one in page.items], page.next_cursor is not None
        else:
            await self._check_known(wanted, tenant)
            named = list(dict.fromkeys(wanted))
            found = named[: limit or MAX_REPLAYED_THREADS]
            more = len(found) < len(named)
        if found:
            await self._access_log.record_threads_and_ancestors(caller, "replay", found)
        else:
            await self._access_log.record_list(caller, "replay", ())
        services = self._runtime.turns.services
        replay = Replay(
            self._runtime.repository,
            self._runtime.sandbox,
            services.tokens,
            services.context_window,
            self._runtime.clock,
            services.models,
            self._runtime.prices,
        )
        return await replay_threads(
            replay,
            [await self._to_replay(thread_id, agent, tenant) for thread_id in found],
            self._slots,
            tenant,
            live=live,
            only_different=only_different,
            time_limit_s=time_limit_s,
            truncated=more,
        )

    async def _check_known(self, threads: Sequence[ThreadId], tenant: Tenant) -> None:
        for number, thread_id in enumerate(threads):
            try:
                await self._runtime.repository.row(thread_id, tenant)
            except UnknownThread as error:
                raise UnknownThread(thread_id, f"threads.{number}") from error

    async def _to_replay(self, thread_id: ThreadId, agent: Agent | None, tenant: Tenant) -> ThreadToReplay:
        """Find the agent that replays a thread. Whatever is wrong with the thread is an error of it alone."""
        try:
            state = (await self._runtime.repository.existing(thread_id, tenant)).state
        except StoreUnavailable:
            raise
        except ThreadfoldError as error:
            return ThreadToReplay(thread_id, agent.name if agent else "", error=str(error))
        if isinstance(state, Unopened):
            return ThreadToReplay(thread_id, agent.name if agent else "")
        own = state.thread.graph
        if agent is None and own not in self._runtime.agents:
            known = ", ".join(sorted(self._runtime.agents))
            why = f"Its agent {own!r} is not registered; known agents: {known}. Name another agent for the replay."
            return ThreadToReplay(thread_id, own, error=why)
        agent = agent or self._runtime.agents[own]
        return ThreadToReplay(thread_id, agent.name, agent, state.thread.turns)
