"""Turns outlive their process, and no two processes run one to its harm."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace as replace_means
from typing import Literal
from uuid import uuid4

import pytest
from msgspec.structs import replace

from domain.agents.agent import TurnContext
from domain.agents.assistant import assistant
from domain.agents.tools import Tool, ToolContext, tool
from domain.application.command_handler import CommandRequest, execute
from domain.application.thread_repository import LoadedThread, ThreadRepository
from domain.application.turns.run import TurnRun
from domain.application.turns.runner import TurnRunner
from domain.errors import InvalidInput, StoreUnavailable
from domain.ids import Position, ThreadId, TurnId, Version
from domain.ports.log import Append
from domain.ports.snapshots import Snapshot
from domain.thread.codec import Metadata
from domain.thread.commands import CompleteNode, DecideApproval, FailTurn, StartCalls, StopTurn
from domain.thread.decide import decide
from domain.thread.events import (
    NodeEvent,
    NodeFailed,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolStarted,
    ToolSucceeded,
    TurnCompleted,
    TurnFailed,
    TurnResumed,
)
from domain.thread.state import Running, Turn
from infrastructure.memory.event_store import MemoryEventStore
from infrastructure.memory.snapshots import MemorySnapshotStore
from tests.support.runtime import Stage, calls, one_node, says, stage


class Flaky(MemoryEventStore):
    """A store that is away for a while."""

    away = False

    async def append(self, append: Append) -> Position:
        if self.away:
            raise StoreUnavailable
        return await super().append(append)


async def test_a_store_that_is_away_holds_the_turn_up_and_does_not_fail_it() -> None:
    store, runs = Flaky(), list[str]()

    @tool(idempotent=True)
    async def act() -> str:
        """Act while the store goes away."""
        store.away = not runs
        runs.append("run")
        return "acted"

    played = stage(assistant(tools=[act]), calls(("act", {})), says("done"), store=store)
    played.turns.pause = 0.01
    saying = asyncio.create_task(played.say("act"))
    while not store.away:
        await asyncio.sleep(0)
    assert not await played.happened(TurnFailed, NodeFailed)
    store.away = False
    await asyncio.wait_for(saying, 5)
    assert len(await played.happened(ToolSucceeded, TurnCompleted)) == 2
    assert not await played.happened(TurnFailed, NodeFailed)


async def about_to_run_a_tool(played: Stage) -> LoadedThread:
    """A turn whose model has asked for a tool that is not started yet."""
    loaded = (await played.begin("act")).loaded
    run = TurnRun(played.turns.services, loaded, Metadata())
    while run.turn and not run.turn.calls:
        await played.turns._loop(run).step()
    return run.loaded


async def lost_in_a_tool(tools: Sequence[Tool], fault: str = "") -> Stage:
    """A turn whose process died right after its tool was started. With a `fault`, it was not run."""
    asked = calls(("act", {}))
    asked = replace(asked, tool_calls=tuple(replace(call, fault=fault) for call in asked.tool_calls))
    played = stage(assistant(tools=tools), asked, says("I see"))
    loaded = await about_to_run_a_tool(played)
    state = loaded.state
    assert isinstance(state, Running)
    started = StartCalls(TurnId(state.turn.turn_id), ((state.turn.calls[0].version, 1),))
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (started,)))
    return played


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_lost_turn_goes_on_and_runs_a_started_tool_again_only_if_that_is_harmless(idempotent: bool) -> None:  # noqa: FBT001
    runs: list[str] = []

    @tool(idempotent=idempotent)
    async def act(call: ToolContext) -> str:
        """Act."""
        runs.append(call.idempotency_key)
        return "acted"

    played = await lost_in_a_tool([act])
    async with played.worker().working():
        await played.settled()
    assert len(runs) == (1 if idempotent else 0)
    assert len(await played.happened(ToolSucceeded)) == len(runs)
    assert len(await played.happened(ToolOutcomeUnknown)) == 1 - len(runs)
    attempts = [event.attempt for event in await played.happened(ToolStarted) if isinstance(event, ToolStarted)]
    assert attempts == ([1, 2] if idempotent else [1])
    assert await played.happened(TurnCompleted)
    assert len(await played.happened(TurnResumed)) == 1


@pytest.mark.parametrize("policy", ["ask_model", "ask_person"])
async def test_a_call_that_cannot_be_run_leaves_no_doubt(policy: Literal["ask_model", "ask_person"]) -> None:
    @tool(if_unknown=policy)
    async def act() -> str:
        """Act."""
        raise AssertionError("this call cannot be run")

    played = await lost_in_a_tool([act], "The arguments cannot be read.")
    async with played.worker().working():
        await played.settled()
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error.startswith("The arguments cannot be read.\nNothing was run.")
    assert not await played.happened(ToolOutcomeUnknown)
    assert await played.happened(TurnCompleted)


async def test_a_call_whose_outcome_a_person_is_to_judge_waits_for_one() -> None:
    runs: list[str] = []

    @tool(if_unknown="ask_person")
    async def act() -> str:
        """Act."""
        runs.append("run")
        return "acted"

    played = await lost_in_a_tool([act])
    async with played.worker().working():
        state = await played.settled()
        assert isinstance(state, Running)
        assert (state.waiting, runs) == (True, [])
        (call,) = state.turn.calls
        assert call.because == "outcome_unknown"
        with pytest.raises(InvalidInput, match="decision"):
            decide(DecideApproval(call.version, call.hash, "settle"), replace(state, turn=not_lost(state.turn)))
        granted = DecideApproval(call.version, call.hash, decision="grant")
        outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (granted,)))
        await played.turns.wait(played.thread_id)
        played.turns.start(outcome.loaded, Metadata())
        await played.turns.wait(played.thread_id)
    assert runs == ["run"]
    assert await played.happened(TurnCompleted)


def not_lost(turn: Turn) -> Turn:
    return replace(turn, calls=tuple(replace(call, because="policy") for call in turn.calls))


async def test_a_person_who_knows_the_outcome_settles_the_call() -> None:
    @tool(if_unknown="ask_person")
    async def act() -> str:
        """Act."""
        raise AssertionError("it ran before")

    played = await lost_in_a_tool([act])
    async with played.worker().working():
        state = await played.settled()
        assert isinstance(state, Running)
        (call,) = state.turn.calls
        settled = DecideApproval(call.version, call.hash, "settle", told="It was done.", tokens=3)
        outcome = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (settled,)))
        await played.turns.wait(played.thread_id)
        played.turns.start(outcome.loaded, Metadata())
        await played.settled()
    assert await played.happened(ToolSucceeded) == [ToolSucceeded(call.version, "It was done.", 3, 0)]
    assert played.script.asked[-1].messages[-1].content == "It was done."


async def test_a_process_that_does_not_know_the_agent_leaves_its_turns_alone() -> None:
    played = stage(assistant(), says("hi"))
    outcome = await played.begin("hello")
    stranger = TurnRunner(played.turns.services, {})
    async with played.worker(stranger).working():
        await stranger.run(outcome.loaded, Metadata())
    assert not await played.happened(TurnFailed, TurnResumed)


async def test_a_worker_that_has_lost_the_turn_cannot_report_on_it() -> None:
    played = stage(assistant(), says("mine"), says("yours"))
    outcome = await played.begin("hello")
    stale = TurnRun(played.turns.services, outcome.loaded, Metadata())
    async with played.worker().working():
        await played.settled()
        assert await played.happened(TurnResumed)
    before = await played.events()
    state = outcome.loaded.state
    assert isinstance(state, Running)
    for report in (
        CompleteNode(stale.turn_id, 0, (), "generate_response", 1),
        StartCalls(stale.turn_id, ((Version(1), 1),)),
        FailTurn(stale.turn_id, "step_limit", "late"),
        StopTurn(stale.turn_id, "late", 1),
    ):
        assert await stale.report(report) == ()
    assert await played.events() == before


async def test_of_two_that_run_one_turn_one_stops_and_no_tool_runs_twice() -> None:
    for seed in range(30):
        delays = random.Random(seed)
        runs: list[str] = []

        @tool
        async def pay(call: ToolContext) -> str:
            """Pay."""
            runs.append(call.idempotency_key)  # noqa: B023  (it runs within this round)
            return "paid"

        class Slow(MemoryEventStore):
            async def append(self, append: Append) -> Position:
                await asyncio.sleep(delays.random() / 500)  # noqa: B023
                return await super().append(append)

        played = stage(assistant(tools=[pay]), *[calls(("pay", {})), says("ok")] * 3, store=Slow())
        outcome = await played.begin("pay")
        other = ThreadRepository(played.store, played.snapshots, played.clock, fingerprint="test")
        second = TurnRunner(replace_means(played.turns.services, repository=other), played.turns.agents)
        await asyncio.gather(
            *(turns.run(outcome.loaded, Metadata()) for turns in (played.turns, second)), return_exceptions=True
        )
        assert len(runs) <= 1, seed
        assert len(await played.happened(ToolStarted)) <= 1


async def test_of_two_that_are_about_to_run_a_tool_one_runs_it() -> None:
    runs: list[str] = []

    @tool
    async def act(call: ToolContext) -> str:
        """Act."""
        runs.append(call.idempotency_key)
        return "acted"

    played = stage(assistant(tools=[act]), calls(("act", {})), *[says("I see")] * 2)
    loaded = await about_to_run_a_tool(played)
    other = ThreadRepository(played.store, played.snapshots, played.clock, fingerprint="test")
    second = TurnRunner(replace_means(played.turns.services, repository=other), played.turns.agents)
    await asyncio.gather(played.turns.run(loaded, Metadata()), second.run(loaded, Metadata()))
    assert len(runs) == 1
    assert len(await played.happened(ToolStarted)) == len(await played.happened(ToolSucceeded)) == 1


async def test_the_ghost_of_an_ended_turn_does_not_run_the_next_one() -> None:
    gate = asyncio.Event()
    ran: list[str] = []

    async def wait(turn: TurnContext) -> Sequence[NodeEvent]:
        ran.append(turn.user_input)
        await gate.wait()
        return ()

    played = stage(one_node(wait))
    first = await played.begin("first")
    ghost = asyncio.create_task(played.turns.run(first.loaded, Metadata()))
    while not ran:
        await asyncio.sleep(0)
    state = first.loaded.state
    assert isinstance(state, Running)
    end = FailTurn(TurnId(state.turn.turn_id), "step_limit", "ended elsewhere")
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (end,)))
    await played.begin("second")
    gate.set()
    await ghost
    assert ran == ["first"]


async def test_a_turn_that_starts_while_the_one_before_leaves_is_run() -> None:
    saving = asyncio.Event()

    class SlowSnapshots(MemorySnapshotStore):
        async def save(self, snapshot: Snapshot) -> None:
            await saving.wait()
            await super().save(snapshot)

    played = stage(assistant(), says("one"), says("two"), snapshots=SlowSnapshots(), snapshot_every=1)
    for text in ("first", "second"):
        outcome = await played.begin(text)
        played.turns.start(outcome.loaded, Metadata())
        while (await played.repository.load(played.thread_id)).state.in_turn:
            await asyncio.sleep(0)
    saving.set()
    await played.turns.close()
    assert len(await played.happened(TurnCompleted)) == 2
    assert await played.snapshots.nearest(played.thread_id, None, "test")


async def test_one_thread_that_cannot_be_read_does_not_keep_others_from_going_on() -> None:
    played = stage(assistant(), says("hi"), says("hi"))
    await played.begin("lost")
    broken, played.thread_id = played.thread_id, ThreadId(uuid4())
    played.clock.pass_(1)
    await played.begin("lost, too")
    played.forget(broken)
    played.store._events[broken][0] = replace(played.store._events[broken][0], payload="{}")  # type: ignore[attr-defined]
    async with played.worker().working():
        while not await played.happened(TurnCompleted):
            await asyncio.sleep(0)
