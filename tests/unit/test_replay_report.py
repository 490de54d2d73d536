"""Reports of replays over many threads: their order, their bounds, and threads that fail."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.assistant import assistant
from domain.application.replay import report as reports
from domain.application.replay.compare import ReplayedTurn
from domain.application.replay.replay import Replay
from domain.application.replay.report import ReplayReport, ThreadToReplay, replay_threads
from domain.application.turns.model_registry import ModelRegistry
from domain.errors import CorruptLog, StoreUnavailable
from domain.ids import DEFAULT_TENANT, Tenant, ThreadId
from domain.thread.events import NodeEvent
from tests.support.runtime import Script, Stage, Words, calls, double, one_node, says, stage
from tests.unit.test_replay import sandbox


@dataclass(frozen=True)
class Shelf(Replay):
    """Replays threads that are in logs of their own. Each takes as long as `seconds` say, or fails."""

    stages: dict[ThreadId, Stage] = None  # type: ignore[assignment]
    seconds: dict[ThreadId, float | Exception] = None  # type: ignore[assignment]

    async def turns(
        self, thread_id: ThreadId, agent: Agent, tenant: Tenant = DEFAULT_TENANT, *, live: bool = False
    ) -> AsyncGenerator[ReplayedTurn]:
        waits = self.seconds.get(thread_id, 0.0)
        one = replace_fields(self, repository=self.stages[thread_id].repository)
        async for turn in Replay.turns(one, thread_id, agent, tenant, live=live):
            if not isinstance(waits, Exception):
                await asyncio.sleep(waits)
            yield turn
            if isinstance(waits, Exception):
                raise waits


async def shelf(*turns: int) -> tuple[Shelf, list[ThreadToReplay]]:
    """Talk in threads of so many turns, and return what replays them."""
    stages = {}
    for number in turns:
        played = stage(assistant(), *[says(f"answer {n}") for n in range(number)])
        for n in range(number):
            await played.say(f"question {n}")
        stages[played.thread_id] = played
    first = next(iter(stages.values()))
    replay = Shelf(first.repository, sandbox, Words(), 8_000, first.clock, stages=stages, seconds={})
    chosen = [
        ThreadToReplay(played.thread_id, played.agent.name, played.agent, number)
        for played, number in zip(stages.values(), turns, strict=True)
    ]
    return replay, chosen


async def reported(replay: Shelf, threads: Sequence[ThreadToReplay], time_limit_s: float | None = None) -> ReplayReport:
    return await replay_threads(replay, threads, asyncio.Semaphore(4), time_limit_s=time_limit_s)


async def test_threads_are_in_the_given_order_whichever_is_replayed_first() -> None:
    replay, threads = await shelf(1, 2, 1, 1, 1)
    replay.seconds.update({thread.thread_id: 0.05 * (5 - n) for n, thread in enumerate(threads)})
    report = await reported(replay, threads)
    assert [thread.thread_id for thread in report.threads] == [thread.thread_id for thread in threads]
    assert (report.same, report.is_same, report.truncated) == (6, True, False)


@pytest.mark.parametrize("error", [CorruptLog("a newer Threadfold wrote it"), KeyError("odd")])
async def test_a_thread_that_fails_is_a_row_and_the_others_are_replayed(error: Exception) -> None:
    replay, threads = await shelf(2, 2, 2)
    replay.seconds[threads[1].thread_id] = error
    unknown = ThreadToReplay(threads[0].thread_id, "gone", error="Its agent 'gone' is not registered.")
    report = await reported(replay, [*threads, unknown])
    assert [len(thread.turns) for thread in report.threads] == [2, 1, 2, 0]
    assert [thread.error is None for thread in report.threads] == [True, False, True, False]
    assert (report.same, report.failed, report.is_same) == (5, 2, False)


async def test_a_store_that_is_away_ends_the_report() -> None:
    replay, threads = await shelf(1, 2)
    replay.seconds[threads[1].thread_id] = StoreUnavailable()
    with pytest.raises(StoreUnavailable):
        await reported(replay, threads)


async def test_turns_beyond_the_bound_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPLAYED_TURNS", 3)
    replay, threads = await shelf(2, 2, 2)
    report = await reported(replay, threads)
    assert ([len(thread.turns) for thread in report.threads], report.truncated) == ([2, 1, 0], True)
    assert not (await reported(replay, threads[:1])).truncated


async def test_texts_beyond_the_bound_are_left_out_but_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, threads = await shelf(2, 2)
    monkeypatch.setattr(reports, "MAX_REPORT_BYTES", 1_500)
    report = await reported(replay, threads)
    assert 0 < sum(len(thread.turns) for thread in report.threads) < 4
    assert (report.same, report.truncated) == (4, True)


async def test_a_thread_that_takes_too_long_is_a_row() -> None:
    replay, threads = await shelf(1, 1)
    replay.seconds[threads[0].thread_id] = 60.0
    report = await reported(replay, threads, time_limit_s=1.0)
    assert [bool(thread.error) for thread in report.threads] == [True, False]


async def test_a_call_with_other_arguments_differs_although_its_result_is_unknown() -> None:
    played = stage(assistant(tools=[double]), calls(("double", {"number": 4})), says("8"))
    await played.say("double four")
    live = Script([calls(("double", {"number": 5})), says("I cannot.")])
    models = ModelRegistry.alone(live, "script")
    replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock, models)
    (turn,) = await replay.thread(played.thread_id, played.agent, live=True)
    assert turn.unknown is not None
    assert turn.verdict == "differs"
    assert (turn.recorded, turn.replayed) == (
        'double is asked for: {"number": 4}',
        'double is asked for: {"number": 5}',
    )


async def test_what_depends_on_an_answer_that_was_not_recorded_is_unknown() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("Hm.")]

    async def other(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(await turn.ask("What is it?"))]

    async def caught(turn: TurnContext) -> Sequence[NodeEvent]:
        try:
            return [turn.say(await turn.ask("What is it?"))]
        except Exception:  # noqa: BLE001
            return [turn.say("I do not know.")]

    played = stage(one_node(work))
    await played.say("go")
    replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock)
    for run in (other, caught):
        (turn,) = await replay.thread(played.thread_id, one_node(run))
        assert turn.verdict == "unknown"


async def test_failures_of_replayed_turns_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("Hm.")]

    async def fails(_: TurnContext) -> Sequence[NodeEvent]:
        raise TypeError("odd")

    played = stage(one_node(work))
    await played.say("go")
    replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock)
    with caplog.at_level(logging.DEBUG, "domain.application.turns"):
        (turn,) = await replay.thread(played.thread_id, one_node(fails))
    assert (turn.now.outcome, turn.verdict, caplog.records) == ("failed", "differs", [])


async def test_attempts_follow_each_other_at_once_when_no_model_is_asked() -> None:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("Hm.")]

    async def other(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say(await turn.ask("What is it?"))]

    played = stage(one_node(work))
    await played.say("go")
    replay = Replay(played.repository, sandbox, Words(), played.context_window, played.clock)
    async with asyncio.timeout(1.5):
        await replay.thread(played.thread_id, one_node(other))
