"""Replays of many threads: what would differ, turn by turn, with totals."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from math import fsum

import msgspec
from msgspec import Struct

from domain.agents.agent import Agent
from domain.agents.error_text import error_text
from domain.application.replay.compare import ReplayedTurn, TurnSummary
from domain.application.replay.replay import Replay
from domain.errors import StoreUnavailable, ThreadfoldError
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId

_log = logging.getLogger(__name__)

MAX_REPLAYED_THREADS = 200
MAX_REPLAYED_TURNS = 1_000
"""Turns of one report, of all threads together."""

MAX_REPORT_BYTES = 16_000_000
"""Bytes of JSON after which a report leaves out turns."""


class ThreadToReplay(Struct, frozen=True):
    """A thread and the agent that replays it; or the `error` because of which it cannot be replayed.

    `agent` is None only with an error. `turns` is how many turns the thread has at most.
    """

    thread_id: ThreadId
    name: str
    agent: Agent | None = None
    turns: int = 0
    error: str | None = None


class ReplayedThread(Struct, frozen=True):
    """The replayed turns of a thread, and the agent that ran them.

    `error` says why there are no more turns, if the thread could not be replayed to its end.
    """

    thread_id: ThreadId
    agent: str
    turns: Sequence[ReplayedTurn]
    error: str | None = None


class ReplayTotals(Struct, frozen=True):
    """Tokens and cost of all replayed turns."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: float

    @classmethod
    def of(cls, turns: Sequence[TurnSummary]) -> "ReplayTotals":
        """Add up turns."""
        return cls(
            sum(turn.prompt_tokens for turn in turns),
            sum(turn.completion_tokens for turn in turns),
            fsum(turn.cost_usd for turn in turns),
        )


class ReplayReport(Struct, frozen=True):
    """What would differ in the turns of several threads. `live`: the models were asked again.

    `same`, `differs` and `unknown` count turns, and `failed` threads that could not be replayed to their end. These and
    the totals `then` (recorded) and `now` (replayed) also count turns that `threads` leaves out because they are the
    same. `truncated`: there are more threads or turns than one report has.
    """

    live: bool
    threads: Sequence[ReplayedThread]
    same: int
    differs: int
    unknown: int
    failed: int
    then: ReplayTotals
    now: ReplayTotals
    truncated: bool

    @property
    def is_same(self) -> bool:
        """Whether every turn was replayed and is the same."""
        return not (self.differs or self.unknown or self.failed)


async def replay_threads(
    replay: Replay,
    threads: Sequence[ThreadToReplay],
    slots: asyncio.Semaphore,
    tenant: Tenant = DEFAULT_TENANT,
    *,
    live: bool = False,
    only_different: bool = False,
    time_limit_s: float | None = None,
    truncated: bool = False,
) -> ReplayReport:
    """Replay threads at the same time, as many as there are `slots`. The report has them in the given order.

    A thread that fails does not end the report. Each thread has `time_limit_s` seconds from now on, with those before
    it. Turns beyond `MAX_REPLAYED_TURNS` are not run.

    Raises:
        StoreUnavailable: the log cannot be read.
    """
    deadline = None if time_limit_s is None else asyncio.get_running_loop().time() + time_limit_s
    left, tasks = MAX_REPLAYED_TURNS, []

    async def replayed(thread: ThreadToReplay, most: int) -> ReplayedThread:
        async with slots:
            return await _replay_thread(replay, thread, most, tenant, deadline, live=live)

    try:
        async with asyncio.TaskGroup() as group:
            for thread in threads:
                most = min(thread.turns, left)
                truncated, left = truncated or most < thread.turns, left - most
                tasks.append(group.create_task(replayed(thread, most), name=f"replay of {thread.thread_id}"))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return _report([task.result() for task in tasks], live=live, only_different=only_different, truncated=truncated)


async def _replay_thread(
    replay: Replay, thread: ThreadToReplay, most: int, tenant: Tenant, deadline: float | None, *, live: bool
) -> ReplayedThread:
    """Replay at most so many turns of a thread."""
    turns: list[ReplayedTurn] = []
    error = thread.error
    if thread.agent is not None and most:
        try:
            async with asyncio.timeout_at(deadline):
                async with aclosing(replay.turns(thread.thread_id, thread.agent, tenant, live=live)) as replayed:
                    async for turn in replayed:
                        turns.append(turn)
                        if len(turns) == most:
                            break
        except StoreUnavailable:
            raise
        except ThreadfoldError as failed:
            error = str(failed)
        except TimeoutError:
            error = "The report took too long; replay fewer threads."
        except Exception as failed:  # noqa: BLE001  (whatever is wrong with one thread, the others are replayed)
            _log.exception("The replay of %s failed", thread.thread_id)
            error = f"The replay failed: {error_text(failed)}"
    return ReplayedThread(thread.thread_id, thread.name, turns, error)


def _report(threads: Sequence[ReplayedThread], *, live: bool, only_different: bool, truncated: bool) -> ReplayReport:
    turns = [turn for thread in threads for turn in thread.turns]
    counts = {verdict: sum(turn.verdict == verdict for turn in turns) for verdict in ("same", "differs", "unknown")}
    shown, room = [], MAX_REPORT_BYTES
    for thread in threads:
        kept = []
        for turn in _chosen(thread.turns, only_different=only_different):
            room -= len(msgspec.json.encode(turn))
            if room >= 0:
                kept.append(turn)
        if kept or thread.error or not only_different:
            shown.append(msgspec.structs.replace(thread, turns=kept))
    return ReplayReport(
        live,
        shown,
        counts["same"],
        counts["differs"],
        counts["unknown"],
        sum(thread.error is not None for thread in threads),
        ReplayTotals.of([turn.then for turn in turns]),
        ReplayTotals.of([turn.now for turn in turns]),
        truncated or room < 0,
    )


def _chosen(turns: Iterable[ReplayedTurn], *, only_different: bool) -> Iterable[ReplayedTurn]:
    return (turn for turn in turns if not only_different or turn.verdict != "same")
