"""Open turns that this process cannot continue, because their node or their agent is missing: found by read models."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

from msgspec import Struct

from api.runtime.composition import Runtime
from domain.agents.graph import alias_advice
from domain.agents.missing_nodes import MissingTurn, missing_turns
from domain.errors import ThreadfoldError
from domain.ids import Tenant, ThreadId
from projections.status_periods import STATUS_PERIODS, open_turns

_log = logging.getLogger(__name__)

PAGE_THREADS = 200
"""Threads that are read at a time."""

MAX_CONCURRENT_LOADS = 2
"""Threads that are in memory at a time, each with its whole window."""

MAX_THREADS_AT_START = 1_000
"""Threads with an open turn that a process looks at when it starts, those that have been open for longest."""

REPORT_DELAY_S = 2.0
"""Seconds after its start that a process looks at open turns: requests and turns come first."""

MAX_EXAMPLES = 5
"""Threads that a line of the log names."""


class ThreadMissing(Struct, frozen=True):
    """A thread's turns that cannot be continued."""

    thread_id: UUID
    tenant: str
    turns: Sequence[MissingTurn]


class MissingReport(Struct, frozen=True):
    """The threads whose turns cannot be continued, of `checked` threads with an open turn."""

    checked: int
    threads: Sequence[ThreadMissing]


async def find_missing(runtime: Runtime, limit: int | None = None) -> MissingReport:
    """Look at the threads with an open turn, at most `limit` of them, those that have been open for longest first.

    The read models say which threads these are. Threads that cannot be read are left out.
    """
    names = STATUS_PERIODS.names
    tenant, thread_id, since = (names.index(name) for name in ("tenant", "thread_id", "since"))
    # Every period that has ended does so before this instant, whichever process's clock it was written by.
    at = runtime.clock.now() + timedelta(days=1)
    after, checked = None, 0
    found: list[ThreadMissing] = []
    while size := PAGE_THREADS if limit is None else min(PAGE_THREADS, limit - checked):
        rows = await runtime.log.models.select(open_turns(at, after, size))
        slots = asyncio.Semaphore(MAX_CONCURRENT_LOADS)
        looks = [_look(runtime, slots, ThreadId(row[thread_id]), Tenant(row[tenant])) for row in rows]
        found += [missing for missing in await asyncio.gather(*looks) if missing is not None]
        checked += len(rows)
        if len(rows) < size:
            break
        after = (rows[-1][since], rows[-1][thread_id])
    return MissingReport(checked, found)


async def _look(
    runtime: Runtime, slots: asyncio.Semaphore, thread_id: ThreadId, tenant: Tenant
) -> ThreadMissing | None:
    async with slots:
        try:
            loaded = await runtime.repository.load_once(thread_id, tenant)
        except ThreadfoldError as error:
            _log.warning("The turn of %s is not checked: %s", thread_id, error)
            return None
    turns = tuple(missing_turns(runtime.agents, loaded.state))
    return ThreadMissing(thread_id, tenant, turns) if turns else None


@asynccontextmanager
async def reporting_missing(runtime: Runtime) -> AsyncIterator[None]:
    """Log once which open turns stand at missing nodes. The block does not wait for that."""
    reporting = asyncio.create_task(_report(runtime), name="report of missing nodes")
    try:
        yield
    finally:
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)


async def _report(runtime: Runtime) -> None:
    await asyncio.sleep(REPORT_DELAY_S)
    try:
        report = await find_missing(runtime, MAX_THREADS_AT_START)
    except Exception as error:  # noqa: BLE001  (a report: whatever it is, the process serves without it)
        _log.warning("It was not checked whether turns stand at missing nodes: %r", error)
        return
    for line in lines_of(report.threads):
        _log.warning("%s", line)


def lines_of(threads: Iterable[ThreadMissing]) -> Sequence[str]:
    """Describe missing nodes, a line for each. Other processes may have an agent that is missing here."""
    standing: defaultdict[tuple[str, str, str], dict[UUID, None]] = defaultdict(dict)
    for thread in threads:
        for turn in thread.turns:
            if turn.missing == "node":
                standing[turn.agent, turn.version, turn.node][thread.thread_id] = None
    lines = []
    for (agent, version, node), ids in standing.items():
        examples = ", ".join(map(str, list(ids)[:MAX_EXAMPLES])) + (", ..." if len(ids) > MAX_EXAMPLES else "")
        of_version = f" (version {version!r})" if version else ""
        lines.append(
            f"{len(ids):,} open turn{'' if len(ids) == 1 else 's'} of the agent {agent!r}{of_version} stand"
            f"{'s' if len(ids) == 1 else ''} at the node {node!r}, which this process does not have: "
            f"{examples}. {alias_advice(node)}. `threadfold agents check` lists all"
        )
    return lines
