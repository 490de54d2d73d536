"""Turns whose process died: found in the log, and gone on with at the node in flight.

A node is silent for at most its timeout. A turn that has been silent for longer has lost its process. Should that be
wrong after all, the compare-and-set on the thread's head lets only one of the two go on.
"""

import asyncio
import logging
from datetime import datetime, timedelta

from domain.application.journal import Loaded
from domain.application.turns import Turns
from domain.codec import Metadata
from domain.ids import Tenant, ThreadId, Version
from domain.ports import Clock
from domain.state import Running

_log = logging.getLogger(__name__)

GRACE = timedelta(seconds=5)
BATCH = 10_000
"""Threads that are looked at in one go. Who looks seldom has this many lost turns, so they need no pages."""


async def recover_forever(turns: Turns, clock: Clock, *, alone_since: datetime | None, interval: float = 5.0) -> None:
    """Look for lost turns, every `interval` seconds.

    If this process was the only one at an instant, `alone_since`, the turns that were running then are lost for
    sure, and are gone on with at once.
    """
    while True:
        try:
            await recover(turns, clock, lost_before=alone_since)
            alone_since = None
        except Exception:  # noqa: BLE001  (a database that is away for a while is no reason to stop looking)
            _log.exception("Could not look for lost turns")
        await asyncio.sleep(interval)


async def recover(turns: Turns, clock: Clock, *, lost_before: datetime | None = None) -> int:
    """Go on with every lost turn of an agent that is known here; return how many there were.

    A turn is lost whose last event is older than its node may be silent, or than `lost_before`.
    """
    lost = 0
    for row in await turns.means.journal.store.stalled(lost_before or clock.now() - GRACE, BATCH):
        try:
            lost += await recover_thread(turns, clock, row.thread_id, row.tenant, lost_before=lost_before)
        except Exception:  # noqa: BLE001  (one thread that cannot be read must not keep the others waiting)
            _log.exception("Could not go on with the turn of %s", row.thread_id)
    return lost


async def recover_thread(
    turns: Turns, clock: Clock, thread_id: ThreadId, tenant: Tenant, *, lost_before: datetime | None = None
) -> bool:
    """Go on with a thread's turn if it is lost; return whether it was."""
    if turns.runs(thread_id):
        return False
    loaded = await turns.means.journal.load(thread_id, tenant)
    state = loaded.state
    if not isinstance(state, Running) or state.thread.graph not in turns.agents:
        return False
    certain = lost_before is not None and loaded.head.at < lost_before
    if not certain and clock.now() <= loaded.head.at + _patience(turns, state):
        return False
    _log.info("Going on with the turn of %s at node %s", thread_id, state.turn.node)
    turns.start(loaded, await _story(turns, loaded, state))
    return True


def _patience(turns: Turns, state: Running) -> timedelta:
    """How long whoever runs this turn may be silent; of a node that we do not know, as long as any that we do."""
    nodes = turns.agents[state.thread.graph].graph.by_name
    node = nodes.get(state.turn.node)
    if node is None:
        return timedelta(seconds=max(known.timeout for known in nodes.values())) + GRACE
    waiting = node.retry.delay_after(state.turn.attempt - 1) or 0 if state.turn.attempt > 1 else 0
    return timedelta(seconds=node.timeout + waiting) + GRACE


async def _story(turns: Turns, loaded: Loaded, state: Running) -> Metadata:
    """Find the command that started the turn, so that what follows still names it as its cause."""
    begun = await turns.means.journal.history(loaded.thread_id, Version(state.turn.started - 1), state.turn.started)
    return caused_by(begun[0].metadata)


def caused_by(metadata: Metadata) -> Metadata:
    """Describe what the agent does because of a command."""
    return Metadata(causation=metadata.command or metadata.causation, correlation=metadata.correlation)
