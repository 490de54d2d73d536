"""Whatever an agent's code raises is a failure of that attempt, and of nothing else."""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import Branch, Graph, Node, RetryPolicy
from domain.agents.tools import Tool, tool
from domain.application.turns.user_code import contain_tasks
from domain.json import Json
from domain.models.chat import ToolSpec
from domain.thread.codec import Metadata
from domain.thread.events import (
    END,
    ItemFailed,
    NodeEvent,
    NodeFailed,
    ToolFailed,
    ToolSucceeded,
    TurnCompleted,
    TurnFailed,
)
from tests.support.runtime import Stage, calls, one_node, says, stage

Raising = Callable[[], Awaitable[None]]


class Odd(BaseException):
    """An error that is no `Exception`."""


class Wordless(Exception):
    """An error that cannot be written."""

    def __str__(self) -> str:
        raise SystemExit("no words")

    __repr__ = __str__


async def leave() -> None:
    sys.exit(2)


async def interrupt() -> None:
    raise KeyboardInterrupt


async def close() -> None:
    raise GeneratorExit


async def parse() -> None:
    argparse.ArgumentParser(prog="x").parse_args(["--wrong"])


async def execute() -> None:
    exec("exit()")


async def odd() -> None:
    raise Odd("very odd")


async def nested() -> None:
    raise BaseExceptionGroup("all", [ValueError("a"), BaseExceptionGroup("inner", [SystemExit(3)])])


async def in_a_child() -> None:
    await asyncio.create_task(leave())


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        group.create_task(asyncio.sleep(10))


async def gathered() -> None:
    await asyncio.gather(leave(), interrupt())


async def in_a_grandchild() -> None:
    await asyncio.create_task(in_a_child())


async def in_a_thread() -> None:
    await asyncio.to_thread(sys.exit, 2)


async def wordless() -> None:
    raise Wordless


async def lengthy() -> None:
    raise ValueError("x" * 1_000_000)


async def stop_iteration() -> None:
    raise StopAsyncIteration("enough")


async def cancel_itself() -> None:
    raise asyncio.CancelledError("bored")


ALL: dict[str, tuple[Raising, str]] = {
    "exit": (leave, "SystemExit: 2: the code tried to end the process"),
    "interrupt": (interrupt, "KeyboardInterrupt: the code tried to end the process"),
    "generator": (close, "GeneratorExit: this is not an ordinary error"),
    "argparse": (parse, "SystemExit: 2: the code tried to end the process"),
    "exec": (execute, "SystemExit: None: the code tried to end the process"),
    "odd": (odd, "Odd: very odd: this is not an ordinary error"),
    "nested": (nested, "SystemExit: 3"),
    "child": (in_a_child, "SystemExit: 2: the code tried to end the process"),
    "grandchild": (in_a_grandchild, "SystemExit: 2: the code tried to end the process"),
    "group": (in_a_group, "SystemExit: 2: the code tried to end the process"),
    "gather": (gathered, "SystemExit: 2: the code tried to end the process"),
    "thread": (in_a_thread, "SystemExit: 2: the code tried to end the process"),
    "wordless": (wordless, "Wordless: [its message cannot be read: __str__ raised SystemExit]"),
    "lengthy": (lengthy, "ValueError: xxx"),
    "stop": (stop_iteration, "StopAsyncIteration: enough"),
    "cancelled": (cancel_itself, "cancelled itself"),
}

every = pytest.mark.parametrize("kind", ALL)


async def tried(played: Stage) -> Stage:
    async with asyncio.timeout(10):
        await played.say("go")
    return played


@every
async def test_a_node_fails_and_is_tried_again(kind: str) -> None:
    raising, text = ALL[kind]

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        if turn.state.turn.attempt == 1:
            await raising()
        return [turn.say("better")]

    played = await tried(stage(one_node(node, retry=RetryPolicy(2, first_delay=0.001))))
    (failed,) = await played.happened(NodeFailed)
    assert isinstance(failed, NodeFailed)
    assert text in failed.error
    assert len(failed.error) <= 1_000
    assert await played.happened(TurnCompleted)


@every
async def test_a_tools_failure_is_told_to_the_model(kind: str) -> None:
    raising, text = ALL[kind]

    @tool(idempotent=True)
    async def act() -> str:
        """Act."""
        await raising()
        return "done"

    @tool
    async def other() -> str:
        """Do something else at the same time."""
        await asyncio.sleep(0.01)
        return "fine"

    played = stage(assistant(tools=[act, other]), calls(("act", {}), ("other", {})), says("sorry"))
    await tried(played)
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert text in failed.error
    assert [type(event) for event in await played.happened(ToolSucceeded, TurnCompleted)] == [
        ToolSucceeded,
        TurnCompleted,
    ]


@every
async def test_an_item_fails_alone(kind: str) -> None:
    raising, text = ALL[kind]
    tries: list[Json] = []

    async def each(_: ItemContext, item: Json) -> Json:
        tries.append(item)
        if item == 1 and tries.count(1) == 1:
            await raising()
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        done = await turn.map([0, 1, 2], each, retry=RetryPolicy(2, first_delay=0.001))
        return [turn.say(str(done))]

    played = await tried(stage(one_node(node)))
    (failed,) = await played.happened(ItemFailed)
    assert isinstance(failed, ItemFailed)
    assert text in failed.error
    assert await played.happened(TurnCompleted)
    assert sorted(tries) == [0, 1, 1, 2]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Odd(), StopIteration()])
async def test_a_branch_that_does_not_choose_fails_its_node(error: BaseException) -> None:
    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        return [turn.say("hi")]

    def choose(_: object) -> str:
        raise error

    agent = Agent(Graph("solo", "only", [Node("only", node)], {"only": Branch(choose, {"done": END})}))
    played = await tried(stage(agent))
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert type(error).__name__ in failed.detail or "StopIteration" in failed.detail


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Odd(), StopIteration()])
async def test_a_call_whose_approval_cannot_be_judged_waits_for_a_person(error: BaseException) -> None:
    def judge(_: object) -> bool:
        raise error

    @tool(approval=judge)
    async def pay() -> str:
        """Pay."""
        return "paid"

    played = await tried(stage(assistant(tools=[pay]), calls(("pay", {}))))
    state = (await played.repository.load(played.thread_id)).state
    assert state.waiting


async def test_a_task_that_nothing_waits_for_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        task = asyncio.create_task(leave())
        await asyncio.wait([task])
        del task
        return [turn.say("hi")]

    played = await tried(stage(one_node(node)))
    assert await played.happened(TurnCompleted)
    assert "the code tried to end the process" in caplog.text


async def test_what_a_node_returns_may_fail_when_it_is_read() -> None:
    class Facts(Sequence[NodeEvent]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: object) -> Any:
            sys.exit(1)

    async def node(_: TurnContext) -> Sequence[NodeEvent]:
        return Facts()

    played = await tried(stage(one_node(node)))
    (failed,) = await played.happened(TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert "tried to end the process" in failed.detail


async def test_a_tool_written_by_hand_may_raise_before_it_is_awaited() -> None:
    def run(_: object, __: object) -> Awaitable[str]:
        raise SystemExit("not even once")

    played = stage(assistant(tools=[Tool(ToolSpec("act", "Act.", {"type": "object"}), run)]), calls(("act", {})))
    played.script.lines.append(says("sorry"))
    await tried(played)
    (failed,) = await played.happened(ToolFailed)
    assert isinstance(failed, ToolFailed)
    assert failed.error == "SystemExit: not even once: the code tried to end the process"


async def test_waiting_for_a_person_passes_through_a_group_of_the_nodes_own() -> None:
    @tool(approval=True)
    async def pay() -> str:
        """Pay."""
        return "paid"

    async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
        return [*turn.request("pay")]

    async def act(turn: TurnContext) -> Sequence[NodeEvent]:
        async with asyncio.TaskGroup() as group:
            group.create_task(turn.run_tools())
        return []

    nodes = [Node("ask", ask), Node("act", act)]
    played = await tried(stage(Agent(Graph("solo", "ask", nodes, {"ask": "act", "act": END}), tools=[pay])))
    assert (await played.repository.load(played.thread_id)).state.waiting


async def test_tasks_of_others_are_made_as_before() -> None:
    contain_tasks()
    factory = asyncio.get_running_loop().get_task_factory()
    contain_tasks()
    assert asyncio.get_running_loop().get_task_factory() is factory

    async def answer() -> int:
        return 42

    task = asyncio.create_task(answer(), name="mine")
    assert task.get_coro().__name__ == "answer"  # type: ignore[union-attr]
    assert await task == 42


async def test_tasks_of_an_agent_look_like_its_own(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def child() -> None:
        await asyncio.sleep(0)

    async def lines() -> AsyncIterator[str]:
        yield "a"

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        never = asyncio.create_task(child())
        never.cancel()  # before its first step
        await asyncio.wait([never])
        task = asyncio.create_task(child(), name="mine")
        seen.append(repr(task))
        await task
        assert [line async for line in lines()] == ["a"]
        return [turn.say("hi")]

    played = await tried(stage(one_node(node)))
    assert await played.happened(TurnCompleted)
    assert "child() running at" in seen[0]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_turn_that_runs_in_the_background_is_contained_as_well() -> None:
    async def node(_: TurnContext) -> Sequence[NodeEvent]:
        await in_a_group()
        return ()

    played = stage(one_node(node))
    played.turns.start((await played.begin("go")).loaded, Metadata())
    await asyncio.wait_for(played.turns.wait(played.thread_id), 10)
    assert await played.happened(TurnFailed)
