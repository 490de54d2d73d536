"""Versions of an agent next to each other, and turns at nodes that a worker's agent lacks."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import uuid4

import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.agents.registry import Agents
from domain.agents.tools import tool
from domain.application.command_handler import CommandRequest, execute
from domain.application.turns.runner import TurnRunner
from domain.application.turns.worker import Worker
from domain.errors import InvalidGraph, MissingNode
from domain.ids import TurnId, WorkerId
from domain.thread.codec import Metadata
from domain.thread.commands import CancelTurn, DecideApproval, StartTurn
from domain.thread.describe import describe
from domain.thread.events import (
    END,
    ApprovalGranted,
    MessageAppended,
    NodeEvent,
    TurnCompleted,
    TurnFailed,
    TurnResumed,
    TurnStarted,
)
from domain.thread.state import Running
from infrastructure.memory.wakeups import MemoryWakeups
from tests.support.runtime import Stage, stage

PAID: list[int] = []


@tool(approval=True)
async def pay(amount: int) -> str:
    """Pay something."""
    PAID.append(amount)
    return "paid"


async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return turn.request("pay", amount=5)


async def act(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return [turn.say(f"version {turn.agent.version}")]


def till(node: str, *aliases: str, version: str = "", start: str = "ask") -> Agent:
    """Build an agent that pays at a node, once a person agrees."""
    nodes = [Node(start, ask), Node(node, act, aliases=aliases)]
    return Agent(Graph("till", start, nodes, {start: node, node: END}), tools=[pay], version=version)


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    PAID.clear()


def worker_of(played: Stage, *agents: Agent, hub: list[MemoryWakeups] | None = None) -> Worker:
    turns, leases = TurnRunner(played.turns.services, Agents.listed(agents)), played.leases
    return Worker(
        *(turns, leases, MemoryWakeups(hub), leases.suspects, leases.loans),
        WorkerId(uuid4()),
        "test",
    )


async def granted(agent: Agent) -> Stage:
    """Let a turn of an agent wait for a person, who then grants its call while no worker is there."""
    played = stage(agent)
    loaded = await played.say("pay")
    assert isinstance(loaded.state, Running)
    assert loaded.state.waiting
    (call,) = loaded.state.turn.calls
    decision = DecideApproval(call.version, call.hash, "grant")
    await execute(played.repository, CommandRequest(played.thread_id, lambda _: (decision,)))
    return played


async def said(played: Stage) -> list[str | None]:
    return [e.content for e in await played.events() if isinstance(e, MessageAppended) and e.content]


async def looks(*workers: Worker, times: int = 20) -> None:
    for _ in range(times):
        for worker in workers:
            await worker._find_work()
        await asyncio.sleep(0)


class TestMissingNodes:
    async def test_granted_work_is_left_as_it_is_and_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        played = await granted(till("settle"))
        played.clock.pass_(1_000)
        worker = worker_of(played, till("close"))
        async with worker.working(), asyncio.timeout(20):
            await looks(worker)
            worker._take_up.lending._foreign.clear()  # as after a lease
            await looks(worker)
        assert [type(e) for e in await played.events()][-1] is ApprovalGranted
        assert (await played.repository.load(played.thread_id)).state.in_turn
        assert [r.levelno for r in caplog.records if "stands at the node 'settle'" in r.getMessage()] == [logging.ERROR]

    async def test_the_next_process_with_an_alias_goes_on(self) -> None:
        played = await granted(till("settle"))
        async with played.worker(TurnRunner(played.turns.services, {"till": till("close")})).working():
            await asyncio.sleep(0.01)
        aliased = TurnRunner(played.turns.services, {"till": till("close", "settle")})
        async with played.worker(aliased).working(), asyncio.timeout(20):
            await played.settled()
        assert (PAID, await said(played)) == ([5], ["pay", "version "])

    async def test_a_turn_without_open_work_fails_as_before(self) -> None:
        played = stage(till("settle", start="old"))
        await played.begin("pay")
        async with played.worker(TurnRunner(played.turns.services, {"till": till("settle")})).working():
            await played.settled()
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert (failed.reason, "aliases" in failed.detail) == ("graph_changed", True)

    async def test_a_cancellation_is_carried_out(self) -> None:
        played = await granted(till("settle"))
        state = (await played.repository.load(played.thread_id)).state
        assert isinstance(state, Running)
        cancel = CancelTurn(TurnId(state.turn.turn_id))
        await execute(played.repository, CommandRequest(played.thread_id, lambda _: (cancel,)))
        async with played.worker(TurnRunner(played.turns.services, {"till": till("close")})).working():
            assert not (await played.settled()).waiting
        assert PAID == []

    async def test_it_is_lent_to_a_worker_that_still_has_the_graph(self, caplog: pytest.LogCaptureFixture) -> None:
        """As in a rolling deployment: the new process holds the shard, the old one has the node."""
        played, hub = await granted(till("settle")), list[MemoryWakeups]()
        played.clock.pass_(1_000)
        owner, older = worker_of(played, till("close"), hub=hub), worker_of(played, till("settle"), hub=hub)
        async with owner.working(), asyncio.timeout(20):
            older.shards.standby = True
            async with older.working():
                while not await played.happened(TurnCompleted):
                    await looks(owner, older, times=1)
        assert (PAID, await played.happened(TurnFailed)) == ([5], [])
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    async def test_a_new_turn_is_lent_too(self) -> None:
        """The new process has begun a turn at its first node, and the old one holds the shard."""
        played, hub = stage(till("settle", start="new")), list[MemoryWakeups]()
        await played.begin("pay")
        played.clock.pass_(1_000)
        owner = worker_of(played, till("settle"), hub=hub)
        newer = worker_of(played, till("settle", start="new"), hub=hub)
        async with newer.working(), asyncio.timeout(20):
            newer.shards.standby = True
            async with owner.working():
                while not (await played.repository.load(played.thread_id)).state.waiting:
                    await looks(owner, newer, times=1)
        assert not await played.happened(TurnFailed)

    async def test_a_message_that_was_queued_starts_at_the_renamed_first_node(self) -> None:
        played = stage(till("settle", start="old"))
        first = await played.begin("one")
        old = played.agent.graph
        queued = StartTurn(TurnId(uuid4()), "two", 1, old.first, old.fingerprint, "enqueue")
        await execute(played.repository, CommandRequest(played.thread_id, lambda _: (queued,)))
        assert isinstance(first.loaded.state, Running)
        cancel = CancelTurn(TurnId(first.loaded.state.turn.turn_id))
        await execute(played.repository, CommandRequest(played.thread_id, lambda _: (cancel,)))
        nodes = [Node("new", ask, aliases=("old",)), Node("settle", act)]
        renamed = Agent(Graph("till", "new", nodes, {"new": "settle", "settle": END}), tools=[pay])
        async with (
            played.worker(TurnRunner(played.turns.services, {"till": renamed})).working(),
            asyncio.timeout(20),
        ):
            while not (await played.repository.load(played.thread_id)).state.waiting:
                await asyncio.sleep(0)
        assert not await played.happened(TurnFailed)


class TestVersions:
    def test_the_last_one_listed_is_current(self) -> None:
        one, two = till("settle", version="1"), till("close", version="2")
        agents = Agents.listed([one, two])
        assert (agents["till"], list(agents), len(agents)) == (two, ["till"], 1)
        assert agents.find("till", "1") is one
        assert agents.find("till", "3") is None
        assert agents.versions("other") == ()
        assert agents.all() == [one, two]

    @pytest.mark.parametrize("version", [2, None, "x" * 65, "a\nb", "\ud800"])
    def test_a_version_that_cannot_be_stored_is_refused(self, version: object) -> None:
        with pytest.raises(InvalidGraph, match=r"till: version must be a text of at most 64"):
            till("settle", version=version)  # type: ignore[arg-type]

    async def begun(self, *, agent_version: str) -> Stage:
        played = stage(till("settle"))
        played.agent = till("settle", version=agent_version)
        await played.begin("pay")
        return played

    @pytest.mark.parametrize(
        ("began_with", "listed", "answers"),
        [
            ("1", ("1", "2"), "version 1"),
            ("2", ("1", "2"), "version 2"),
            ("1", ("2", "3"), "version 3"),
            ("", ("", "2"), "version "),
            ("", ("2",), "version 2"),
        ],
    )
    async def test_a_turn_keeps_its_version_while_it_is_there(
        self, began_with: str, listed: Sequence[str], answers: str
    ) -> None:
        played = await self.begun(agent_version=began_with)
        agents = Agents.listed([till("settle", version=version) for version in listed])
        runner = TurnRunner(played.turns.services, agents)
        async with played.worker(runner).working(), asyncio.timeout(20):
            while not (state := (await played.repository.load(played.thread_id)).state).waiting:
                await asyncio.sleep(0)
            assert isinstance(state, Running)
            (call,) = state.turn.calls
            decision = DecideApproval(call.version, call.hash, "grant")
            result = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (decision,)))
            await runner.wait(played.thread_id)
            runner.start(result.loaded, Metadata())
            await played.settled()
        assert await said(played) == ["pay", answers]
        (started,) = await played.happened(TurnStarted)
        assert isinstance(started, TurnStarted)
        assert (started.agent_version, f'version "{began_with}"' in describe(started)) == (began_with, began_with != "")

    async def test_a_worker_without_the_version_lends_the_turn_to_one_that_has_it(self) -> None:
        played, hub = await granted(till("settle", version="1")), list[MemoryWakeups]()
        played.clock.pass_(1_000)
        owner = worker_of(played, till("settle", version="2"), hub=hub)
        older = worker_of(played, till("settle", version="1"), hub=hub)
        async with owner.working(), asyncio.timeout(20):
            older.shards.standby = True
            async with older.working():
                while not await played.happened(TurnCompleted):
                    await looks(owner, older, times=1)
            assert await said(played) == ["pay", "version 1"]
            assert played.turns.services.repository is owner.turns.services.repository
            # The thread's next turn is of the owner's version, and runs there.
            played.agent = till("settle", version="2")
            await played.begin("again")
            while not (state := (await played.repository.load(played.thread_id)).state).waiting:
                await looks(owner, times=1)
        assert isinstance(state, Running)
        assert state.turn.agent_version == "2"

    async def test_without_such_a_worker_the_current_version_takes_over(self) -> None:
        played = await granted(till("settle", version="1"))
        runner = TurnRunner(played.turns.services, Agents.listed([till("settle", version="2")]))
        async with played.worker(runner).working(), asyncio.timeout(20):
            await played.settled()
        assert await said(played) == ["pay", "version 2"]
        assert len(await played.happened(TurnResumed)) == 1

    async def test_a_retry_takes_the_last_version_that_has_the_node(self) -> None:
        played = stage(till("settle", version="1"))
        agents = Agents.listed(
            [till("settle", version="1"), till("close", "settle", version="2"), till("end", version="3")]
        )
        loaded = await played.say("pay")
        assert isinstance(loaded.state, Running)
        cancel = CancelTurn(TurnId(loaded.state.turn.turn_id))
        ended = await execute(played.repository, CommandRequest(played.thread_id, lambda _: (cancel,)))
        state = ended.loaded.state
        assert not isinstance(state, Running)
        agent, node = agents.to_retry(agents["till"], state, cancel.turn_id)  # type: ignore[arg-type]
        assert (agent.version, node) == ("2", "close")
        other = TurnId(uuid4())
        assert agents.to_retry(agents["till"], state, other) == (agents["till"], "")  # type: ignore[arg-type]
        with pytest.raises(MissingNode, match=r"'settle'.*its nodes are ask, end"):
            Agents.listed([till("end")]).to_retry(till("end"), state, cancel.turn_id)  # type: ignore[arg-type]
