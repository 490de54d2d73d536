"""When a turn's events are stored, what a crash may lose then, and what somebody else may write meanwhile."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Graph, Node, RetryPolicy
from domain.agents.tools import tool
from domain.application.audit.verify import verify_thread
from domain.ids import Position, TurnId
from domain.json import Json
from domain.ports.log import Append
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, StartTurn, UpdateValues
from domain.thread.events import (
    END,
    ContextAssembled,
    Durability,
    Event,
    MessageAppended,
    NodeEvent,
    StateUpdated,
    ToolOutcomeUnknown,
    ToolRequested,
    ToolStarted,
    ToolSucceeded,
    TurnCancelled,
    TurnCompleted,
    TurnEnqueued,
    TurnResumed,
    TurnStarted,
)
from domain.thread.evolve import fold
from domain.thread.state import INITIAL, Running
from tests.support.runtime import Stage, calls, double, one_node, says, stage
from tests.support.spending import in_a_row
from tests.support.storing import Counting, Late, begin, outside, run


def counted(*lines: object, agent: Agent | None = None) -> tuple[Stage, Counting]:
    store = Counting()
    return stage(agent or assistant(tools=[double]), *lines, store=store), store  # type: ignore[arg-type]


async def check(played: Stage) -> list[Event]:
    """The log folds, verifies, and refers to what there is."""
    events = await played.events()
    fold(INITIAL, events)
    assert (await verify_thread(played.store, played.thread_id)).problems == ()
    for version, event in enumerate(events, 1):
        if isinstance(event, ToolStarted | ToolSucceeded):
            assert isinstance(events[event.call - 1], ToolRequested)
        if isinstance(event, ContextAssembled):
            assert isinstance(events[event.first - 1], MessageAppended)
            assert event.last <= event.of < version
    return events


@pytest.mark.parametrize("durability", ["turn", "async"])
async def test_a_turn_without_tools_is_stored_in_one_append(durability: Durability) -> None:
    played, store = counted(says("hi"))
    await run(played, durability)
    assert [types[-1] for types in store.appends] == ["MessageAppended", "TurnCompleted"]
    synchronous, other = counted(says("hi"))
    await run(synchronous, "sync")
    assert len(other.appends) == 4
    assert [type(e) for e in await played.events()] == [type(e) for e in await synchronous.events()]
    await check(played)


async def test_no_tool_runs_before_its_start_is_stored() -> None:
    seen: list[list[str]] = []

    @tool
    async def act() -> str:
        """Act."""
        seen.append(store.appends[-1])
        return "acted"

    played, store = counted(calls(("act", {})), says("done"), agent=assistant(tools=[act]))
    await run(played, "turn")
    assert seen == [["ToolStarted"]]
    assert len(store.appends) == 4
    await check(played)


async def test_the_start_of_a_tool_that_may_be_repeated_is_stored_with_its_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("domain.application.turns.run.MAX_REPORT_DELAY_S", 5.0)

    @tool(idempotent=True)
    async def act() -> str:
        """Act."""
        return "acted"

    played, store = counted(calls(("act", {})), says("done"), agent=assistant(tools=[act]))
    await run(played, "sync")
    assert ["ToolStarted", "ToolSucceeded", "NodeCompleted"] in store.appends
    await check(played)


async def test_the_start_of_a_tool_that_takes_long_is_stored_while_it_runs() -> None:
    @tool(idempotent=True, timeout=10)
    async def act() -> str:
        """Act."""
        while store.appends[-1] != ["ToolStarted"]:
            await asyncio.sleep(0.01)
        return "acted"

    played, store = counted(calls(("act", {})), says("done"), agent=assistant(tools=[act]))
    await run(played, "sync")
    assert await played.happened(ToolSucceeded), "it did not wait in vain"
    await check(played)


async def test_a_crash_loses_what_was_not_stored_and_the_turn_goes_on_before_that() -> None:
    stuck = asyncio.Event()

    async def wait(_: TurnContext) -> Sequence[NodeEvent]:
        stuck.set()
        await asyncio.sleep(60)
        return ()

    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        said.append("answer")
        return [turn.say("hm")]

    said: list[str] = []
    nodes = [Node("answer", answer), Node("wait", wait)]
    agent = Agent(Graph("two", "answer", nodes, {"answer": "wait", "wait": END}))
    played, _ = counted(agent=agent)
    started = await begin(played, "turn")
    running = asyncio.create_task(played.turns.run(started.loaded, Metadata()))
    await stuck.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(await played.events()) == 3
    async with played.worker().working(grace=0):
        while said != ["answer", "answer"]:
            await asyncio.sleep(0)
    assert await played.happened(TurnResumed)


async def test_a_tool_that_ran_before_the_crash_is_not_run_again() -> None:
    runs: list[str] = []

    @tool
    async def act() -> str:
        """Act."""
        runs.append("run")
        return "acted"

    class Dying(Counting):
        async def append(self, append: Append) -> Position:
            if "TurnCompleted" in [record.type for record in append.records] and not self.died:
                self.died = True
                raise asyncio.CancelledError
            return await super().append(append)

        died = False

    played = stage(assistant(tools=[act]), calls(("act", {})), says("done"), says("I see"), store=Dying())
    started = await begin(played, "turn")
    await asyncio.gather(asyncio.create_task(played.turns.run(started.loaded, Metadata())), return_exceptions=True)
    assert not await played.happened(ToolSucceeded)
    async with played.worker().working():
        await played.settled()
    assert runs == ["run"]
    assert await played.happened(ToolOutcomeUnknown, TurnCompleted)


@pytest.mark.parametrize("durability", ["turn", "async"])
async def test_what_others_write_meanwhile_comes_first_and_everything_still_fits(durability: Durability) -> None:
    async def meddle(turn: TurnContext) -> Sequence[NodeEvent]:
        await outside(played, UpdateValues({"by": "caller", "n": len(await played.events())}))
        await turn.run_tools()
        await outside(played, UpdateValues({"n": len(await played.events())}))
        return await turn.generate()

    async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
        await outside(played, UpdateValues({"first": True}))
        return [turn.update(by="node"), *turn.request("double", number=4)]

    nodes = [Node("ask", ask), Node("meddle", meddle)]
    agent = Agent(Graph("meddled", "ask", nodes, {"ask": "meddle", "meddle": END}), tools=[double])
    played, _ = counted(says("8"), agent=agent)
    started = await begin(played, durability)
    loaded = await played.turns.run(started.loaded, Metadata())
    events = await check(played)
    assert [type(event) for event in events].count(StateUpdated) == 4
    assert isinstance(events[-1], TurnCompleted)
    assert loaded.state.thread.window[-1].content == "8"  # type: ignore[union-attr]
    assert loaded.state.thread.values["by"] == "node"  # type: ignore[union-attr]
    (succeeded,) = await played.happened(ToolSucceeded)
    assert isinstance(succeeded, ToolSucceeded)
    assert succeeded.content == "8"


async def test_a_cancellation_that_came_before_the_end_was_stored_wins() -> None:
    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        state = turn.state
        await outside(played, CancelTurn(TurnId(state.turn.turn_id)))
        return [turn.say("too late")]

    played, _ = counted(agent=one_node(answer))
    await run(played, "turn")
    events = await check(played)
    assert isinstance(events[-1], TurnCancelled)
    assert not await played.happened(TurnCompleted)


async def test_a_message_that_was_enqueued_before_the_end_was_stored_has_its_turn() -> None:
    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        if turn.user_input != "next":
            fingerprint = played.agent.graph.fingerprint
            await outside(played, StartTurn(TurnId(uuid4()), "next", 1, "only", fingerprint, strategy="enqueue"))
        return [turn.say(turn.user_input)]

    played, _ = counted(agent=one_node(answer))
    started = await begin(played, "turn")
    played.turns.start(started.loaded, Metadata())
    await played.turns.wait(played.thread_id)
    events = await check(played)
    assert len(await played.happened(TurnCompleted)) == 2
    assert [type(e) for e in events].count(TurnEnqueued) == 1
    assert [e.content for e in events if isinstance(e, MessageAppended)] == [
        "double four",
        "double four",
        "next",
        "next",
    ]


async def test_who_was_taken_over_stores_nothing() -> None:
    async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
        if not taken:
            taken.append(turn)
            async with played.worker().working():
                while not await played.happened(TurnCompleted):
                    await asyncio.sleep(0)
        return [turn.say("mine" if len(taken) == 1 else "yours")]

    taken: list[TurnContext] = []
    played, _ = counted(agent=one_node(answer))
    await run(played, "turn")
    events = await check(played)
    assert [type(e) for e in events].count(TurnCompleted) == 1
    assert len(await played.happened(TurnResumed)) == 1


async def test_a_store_that_is_away_holds_the_turn_up_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.application.turns.run.STORE_RETRY_S", 0.001)
    played, store = counted(says("hi"))
    started = await begin(played, "turn")
    store.away = 3
    await played.turns.run(started.loaded, Metadata())
    assert await played.happened(TurnCompleted)
    await check(played)


@pytest.mark.parametrize("meddling", [False, True])
async def test_what_follows_refers_to_what_an_attempt_stored_that_was_cut_off(meddling: bool) -> None:  # noqa: FBT001
    async def say(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("first")]

    async def each(_: ItemContext, number: Json) -> Json:
        return number

    async def last(turn: TurnContext) -> Sequence[NodeEvent]:
        if turn.state.turn.attempt == 1:
            await turn.map([1], each)
        if meddling:
            await outside(played, UpdateValues({"by": "caller"}))
        return await turn.generate()

    nodes = [Node("say", say), Node("last", last, retry=RetryPolicy(2, first_delay=0.001), timeout=1)]
    played = stage(in_a_row(*nodes), says("second"), store=Late("FanOutStarted"))
    await run(played, "turn")
    events = await check(played)
    assert isinstance(events[-1], TurnCompleted)
    (context,) = (event for event in events if isinstance(event, ContextAssembled))
    assert [event.content for event in events[: context.last] if isinstance(event, MessageAppended)][-1] == "first"
    assert isinstance(events[context.last - 1], MessageAppended)


async def test_async_gives_the_answer_before_it_is_stored_and_then_stores_it() -> None:
    played, store = counted(says("hi"))
    started = await begin(played, "async")
    store.gate.clear()
    played.turns.start(started.loaded, Metadata())
    assert isinstance(started.loaded.state, Running)
    answering = played.turns.answering(played.thread_id, TurnId(started.loaded.state.turn.turn_id))
    assert answering is not None
    await asyncio.wait_for(answering.answered.wait(), 5)
    kept = [recorded.event for recorded in answering.kept]
    assert isinstance(kept[-1], TurnCompleted)
    checkpoint = answering.loaded.head
    assert not await played.happened(TurnCompleted)
    settling = asyncio.create_task(played.turns.settled(played.thread_id))
    await asyncio.sleep(0.01)
    assert not settling.done()
    store.gate.set()
    await settling
    assert (await played.repository.load(played.thread_id)).head == checkpoint
    assert [e for e in await played.events() if not isinstance(e, TurnStarted)][-1] == kept[-1]
    await check(played)
