"""Code that does not end when it is cancelled is left alone: nothing waits for it, and it can do no more harm."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from uuid import uuid4

import pytest

from domain.agents.agent import ItemContext, TurnContext
from domain.agents.assistant import assistant
from domain.agents.graph import RetryPolicy
from domain.agents.tools import tool
from domain.application.turns import user_code
from domain.errors import TurnIsOver
from domain.ids import ThreadId
from domain.json import Json
from domain.thread.codec import Metadata
from domain.thread.events import (
    MessageAppended,
    ModelCalled,
    NodeEvent,
    NodeFailed,
    ToolOutcomeUnknown,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
)
from tests.support.runtime import Stage, calls, one_node, says, stage


class Deaf:
    """Ignores being cancelled until it is told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = 0

    async def stay(self) -> None:
        self.begun.set()
        while not self.end.is_set():
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domain.application.turns.user_code.CLEANUP_TIMEOUT_S", 0.05)


@pytest.fixture
async def deaf() -> AsyncIterator[Deaf]:
    one = Deaf()
    yield one
    one.end.set()
    while user_code._abandoned:
        await asyncio.sleep(0.001)


def named(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was said of what was abandoned: it says where that is."""
    assert "It is abandoned" in caplog.text
    assert re.search(r"It is at .*test_abandoned\.py:\d+ in \w+", caplog.text)
    return caplog.text


async def test_a_node_that_does_not_end_fails_its_attempt_and_can_report_nothing(
    deaf: Deaf, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        if turn.state.turn.attempt == 2:
            return [turn.say("the second one")]
        await deaf.stay()
        for act in (turn.generate, turn.run_tools, turn.compact, lambda: turn.map([1], item)):
            with pytest.raises(TurnIsOver):
                await act()
            tried.append("refused")
        with pytest.raises(TurnIsOver):
            assert turn.state
        return [turn.say("the first one")]

    async def item(_: ItemContext, value: Json) -> Json:
        return value

    played = stage(one_node(node, retry=RetryPolicy(2, first_delay=0.001), timeout=0.05))
    async with asyncio.timeout(5):
        await played.say("go")
    assert [type(event) for event in await played.happened(NodeFailed, TurnCompleted)] == [NodeFailed, TurnCompleted]
    before = await played.events()
    deaf.end.set()
    while user_code._abandoned:
        await asyncio.sleep(0.001)
    assert tried == ["refused"] * 4
    assert await played.events() == before
    assert [event.content for event in before if isinstance(event, MessageAppended)] == ["go", "the second one"]
    assert f"Node 'only' of turn {turn_of(before)} in thread {played.thread_id} was cancelled" in named(caplog)
    assert "which was abandoned, has ended now" in named(caplog)


def turn_of(events: Sequence[object]) -> object:
    return next(event.turn_id for event in events if isinstance(event, TurnStarted))


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_tool_that_does_not_end_is_named_and_the_turn_goes_on(
    deaf: Deaf,
    caplog: pytest.LogCaptureFixture,
    idempotent: bool,  # noqa: FBT001
) -> None:
    @tool(timeout=0.05, idempotent=idempotent)
    async def pay() -> str:
        """Pay."""
        await deaf.stay()
        return "paid"

    played = stage(assistant(tools=[pay]), calls(("pay", {})), says("I see"))
    async with asyncio.timeout(5):
        await played.say("pay")
    assert len(await played.happened(ToolOutcomeUnknown)) == (0 if idempotent else 1)
    assert await played.happened(TurnCompleted)
    assert "Tool 'pay' of turn " in named(caplog)


async def test_a_tool_that_ends_late_with_a_result_has_an_outcome() -> None:
    @tool(timeout=0.02)
    async def pay() -> str:
        """Pay."""
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return "paid in the last moment"

    played = stage(assistant(tools=[pay]), calls(("pay", {})), says("good"))
    await played.say("pay")
    assert not await played.happened(ToolOutcomeUnknown)


async def test_an_item_that_does_not_end_is_named(deaf: Deaf, caplog: pytest.LogCaptureFixture) -> None:
    async def each(_: ItemContext, item: Json) -> Json:
        if item == 1:
            await deaf.stay()
        return item

    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        await turn.map([0, 1], each)
        return ()

    played = stage(one_node(node, timeout=0.05))
    async with asyncio.timeout(5):
        await played.say("go")
    assert await played.happened(TurnFailed)
    assert "Item 1 of node 'only' of turn " in named(caplog)
    assert "Node 'only'" not in named(caplog).replace("of node 'only'", "")


async def background(played: Stage) -> None:
    played.turns.start((await played.begin("go")).loaded, Metadata())


@pytest.mark.parametrize("how", ["abandon", "close"])
async def test_who_stops_turns_does_not_wait_for_them_without_a_limit(
    deaf: Deaf, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        await deaf.stay()
        return [turn.say("too late")]

    played = stage(one_node(node, timeout=600))
    threads = []
    for _ in range(20):
        played.thread_id = ThreadId(uuid4())
        threads.append(played.thread_id)
        await background(played)
    await deaf.begun.wait()
    async with asyncio.timeout(2):
        if how == "close":
            await played.turns.close(0)
        else:
            await asyncio.gather(*[played.turns.abandon(thread_id) for thread_id in threads])
    assert not played.turns.running()
    assert deaf.cancelled == named(caplog).count("It is abandoned") == 20
    deaf.end.set()
    while user_code._abandoned:
        await asyncio.sleep(0.001)
    assert len(await played.happened(MessageAppended)) == 1


async def test_the_loops_end_does_not_wait_for_what_was_abandoned() -> None:
    def runs() -> None:
        async def stay() -> None:
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(600)

        async def node(_: TurnContext) -> Sequence[NodeEvent]:
            await stay()
            return ()

        async def main() -> None:
            played = stage(one_node(node, timeout=0.01))
            await played.say("go")
            assert await played.happened(TurnFailed)

        asyncio.run(main())
        user_code._abandoned.clear()

    await asyncio.wait_for(asyncio.to_thread(runs), 10)


async def test_an_abandoned_node_has_made_the_call_that_it_was_in() -> None:
    async def node(turn: TurnContext) -> Sequence[NodeEvent]:
        facts = await turn.generate()
        await asyncio.sleep(600)
        return facts

    played = stage(one_node(node, timeout=0.1), says("one"))
    await played.say("go")
    assert len(await played.happened(ModelCalled)) == 1
