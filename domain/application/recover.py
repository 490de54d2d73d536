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
from domain.ids import Version
from domain.ports import Clock
from domain.state import Running

_log = logging.getLogger(__name__)

GRACE = timedelta(seconds=5)
BATCH = 100


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
    """Go on with every lost turn, `BATCH` of them at most; return how many there were.

    A turn is lost whose last event is older than its node may be silent, or than `lost_before`.
    """
    journal = turns.means.journal
    lost = 0
    for row in await journal.store.stalled(lost_before or clock.now() - GRACE, BATCH):
        if turns.runs(row.thread_id):
            continue
        loaded = await journal.load(row.thread_id, row.tenant)
        if isinstance(loaded.state, Running) and _is_lost(turns, clock, loaded, loaded.state, lost_before):
            _log.info("Going on with the turn of %s at node %s", row.thread_id, loaded.state.turn.node)
            turns.start(loaded, await _story(turns, loaded, loaded.state))
            lost += 1
    return lost


def _is_lost(turns: Turns, clock: Clock, loaded: Loaded, state: Running, lost_before: datetime | None) -> bool:
    if lost_before is not None and loaded.head.at < lost_before:
        return True
    return clock.now() > loaded.head.at + _patience(turns, state)


def _patience(turns: Turns, state: Running) -> timedelta:
    agent = turns.agents.get(state.thread.graph)
    node = agent.graph.by_name.get(state.turn.node) if agent else None
    if node is None:
        return GRACE
    waiting = node.retry.delay_after(state.turn.attempt - 1) or 0 if state.turn.attempt > 1 else 0
    return timedelta(seconds=node.timeout + waiting) + GRACE


async def _story(turns: Turns, loaded: Loaded, state: Running) -> Metadata:
    """Find the command that started the turn, so that what follows still names it as its cause."""
    begun = await turns.means.journal.history(loaded.thread_id, Version(state.turn.started - 1), state.turn.started)
    return caused_by(begun[0].metadata)


def caused_by(metadata: Metadata) -> Metadata:
    """Describe what the agent does because of a command."""
    return Metadata(causation=metadata.command or metadata.causation, correlation=metadata.correlation)
