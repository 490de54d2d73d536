"""Graphs within graphs, and work on lists: both go on in the middle."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from domain.agents.agent import Agent, ItemContext, TurnContext
from domain.agents.graph import Branch, Edge, Graph, Node, RetryPolicy, Subgraph
from domain.agents.mermaid import mermaid
from domain.agents.tools import ToolContext, tool
from domain.errors import InvalidGraph, ToolError
from domain.json import Json
from domain.models.chat import ModelRefused
from domain.thread.codec import Metadata
from domain.thread.events import (
    END,
    FanOutStarted,
    ItemCompleted,
    ItemFailed,
    MessageAppended,
    ModelCalled,
    NodeCompleted,
    NodeEvent,
    TurnCompleted,
    TurnFailed,
    TurnResumed,
)
from domain.thread.state import Running
from tests.support.given import A_RUNNING_TURN, running
from tests.support.runtime import Stage, one_node, says, stage

VISITED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_visited() -> None:
    VISITED.clear()


def node(name: str) -> Node:
    async def visit(_: TurnContext) -> Sequence[NodeEvent]:
        VISITED.append(name)
        return ()

    return Node(name, visit)


def graph(name: str, edges: dict[str, Edge], *steps: Node | Subgraph, start: str = "a") -> Graph:
    return Graph(name, start, steps, edges)


INNER = graph("inner", {"a": "b", "b": END}, node("a"), node("b"))
MIDDLE = graph("middle", {"a": "deep", "deep": "b", "b": END}, node("a"), Subgraph("deep", INNER), node("b"))


class TestSubgraphs:
    def nested(self) -> Graph:
        choose = Branch(lambda state: "again" if state.turn.step < 6 else "done", {"again": "sub", "done": "z"})
        return graph("outer", {"sub": choose, "z": END}, Subgraph("sub", MIDDLE), node("z"), start="sub")

    async def test_their_nodes_run_as_nodes_of_the_whole(self) -> None:
        played = stage(Agent(self.nested()))
        await played.say("go")
        done = [event.node for event in await played.happened(NodeCompleted) if isinstance(event, NodeCompleted)]
        once = ["sub/a", "sub/deep/a", "sub/deep/b", "sub/b"]
        assert done == [*once, *once, "z"]
        assert VISITED == ["a", "a", "b", "b"] * 2 + ["z"]
        assert await played.happened(TurnCompleted)

    async def test_a_turn_is_resumed_in_the_middle_of_one(self) -> None:
        played = stage(Agent(self.nested()))
        loaded = (await played.begin("go")).loaded
        for _ in range(2):
            run = played.run(loaded)
            await played.turns._loop(run).step()
            loaded = run.loaded
        assert isinstance(loaded.state, Running)
        assert loaded.state.turn.node == "sub/deep/b"
        async with played.worker().working():
            await played.settled()
        assert VISITED == ["a", "a", "b", "b"] * 2 + ["z"]
        assert await played.happened(TurnResumed, TurnCompleted)

    def test_arrows_and_drawing_show_the_nodes(self) -> None:
        whole = self.nested()
        assert whole.first == "sub/a"
        assert set(whole.arrows()) == {
            ("sub/a", "", "sub/deep/a"),
            ("sub/deep/a", "", "sub/deep/b"),
            ("sub/deep/b", "", "sub/b"),
            ("sub/b", "again", "sub/a"),
            ("sub/b", "done", "z"),
            ("z", "", END),
        }
        assert '["sub/deep/b"]' in mermaid(whole)
        assert whole.after("sub/deep/b", running(*A_RUNNING_TURN)) == "sub/b"

    def test_a_name_with_the_separator_is_refused(self) -> None:
        with pytest.raises(InvalidGraph, match="'a/b' must not contain"):
            graph("wrong", {"a/b": END}, node("a/b"), start="a/b")


def counting(each: Any, *, attempts: int = 1, at_once: int = 3) -> Agent:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        words = turn.user_input.split()
        results = await turn.map(words, each, at_once=at_once, retry=RetryPolicy(attempts, first_delay=0))
        return [turn.say(" ".join(map(str, results)))]

    return one_node(work)


class TestFanOut:
    async def test_results_come_in_the_order_of_the_items_however_long_each_takes(self) -> None:
        at_work, most = 0, 0

        async def length(_: ItemContext, word: Json) -> Json:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.001 * len(word))
            at_work -= 1
            return len(word)

        played = stage(counting(length))
        loaded = await played.say("three is a crowd of people")
        assert most == 3
        assert loaded.state.thread.window[-1].content == "5 2 1 5 2 6"  # type: ignore[union-attr]
        assert await played.happened(FanOutStarted) == [FanOutStarted(["three", "is", "a", "crowd", "of", "people"])]
        indexes = [e.index for e in await played.happened(ItemCompleted) if isinstance(e, ItemCompleted)]
        assert sorted(indexes) == list(range(6))

    async def test_after_a_crash_only_what_is_missing_is_done(self) -> None:
        done: list[str] = []
        gate = asyncio.Event()

        async def work(context: ItemContext, word: Json) -> Json:
            if word == "b":
                await gate.wait()
            done.append(f"{word} {context.idempotency_key[-3:]}")
            return word.upper()

        played = stage(counting(work))
        started = await played.begin("a b c")
        played.turns.start(started.loaded, Metadata())
        while len(await played.happened(ItemCompleted)) < 2:
            await asyncio.sleep(0)
        await played.turns.abandon(played.thread_id)
        gate.set()
        async with played.worker().working():
            await played.settled()
        assert done == ["a 0:0", "c 0:2", "b 0:1"]
        assert len(await played.happened(FanOutStarted)) == 1
        said = [e.content for e in await played.happened(MessageAppended) if isinstance(e, MessageAppended)]
        assert said == ["a b c", "A B C"]

    async def test_an_item_that_fails_is_tried_again_and_then_fails_the_node(self) -> None:
        failures = {"b": 1, "c": 9}

        async def work(_: ItemContext, word: Json) -> Json:
            if failures.get(word, 0):
                failures[word] -= 1
                raise RuntimeError(f"{word} is not ready")
            return word

        assert await self.outcome(counting(work, attempts=2), "a b") == (1, TurnCompleted)
        assert await self.outcome(counting(work, attempts=2), "c") == (2, TurnFailed)

    async def outcome(self, agent: Agent, said: str) -> tuple[int, type]:
        played = stage(agent)
        await played.say(said)
        (end,) = await played.happened(TurnCompleted, TurnFailed)
        return len(await played.happened(ItemFailed)), type(end)

    async def test_the_model_may_be_asked_for_each_item_and_that_is_counted(self) -> None:
        async def summarise(context: ItemContext, word: Json) -> Json:
            return await context.ask(f"Say {word}", "You are brief.")

        played = stage(counting(summarise, at_once=1), says("one"), says("two"))
        loaded = await played.say("a b")
        assert loaded.state.thread.prompt_tokens == 20  # type: ignore[union-attr]
        assert len(await played.happened(ModelCalled)) == 2
        assert [m.content for m in played.script.asked[1].messages] == ["You are brief.", "Say b"]

    async def test_what_the_model_refuses_is_not_asked_again(self) -> None:
        async def ask(context: ItemContext, _: Json) -> Json:
            return await context.ask("anything")

        played: Stage = stage(counting(ask, attempts=5), ModelRefused("no"))
        await played.say("a")
        assert len(await played.happened(ItemFailed)) == 1
        assert await played.happened(TurnFailed)

    async def test_results_that_cannot_be_kept_fail(self) -> None:
        async def much(_: ItemContext, __: Json) -> Json:
            return "x" * 20_000

        played = stage(counting(much))
        await played.say("a")
        (failed,) = await played.happened(ItemFailed)
        assert isinstance(failed, ItemFailed)
        assert "16,384 characters" in failed.error

    async def test_a_node_may_have_several_fan_outs(self) -> None:
        async def add(_: ItemContext, number: Json) -> Json:
            return number + 1

        async def name(item: ItemContext, number: Json) -> Json:
            return f"{number} {item.idempotency_key.split(':', 2)[2]}"

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            more = await turn.map([1, 2, 3], add)
            none = await turn.map([], add)
            names = await turn.map(more[:2], name)
            return [turn.say(f"{more} {none} {names}")]

        played = stage(one_node(work))
        loaded = await played.say("count")
        said = loaded.state.thread.window[-1].content  # type: ignore[union-attr]
        assert said == "[2, 3, 4] [] ['2 0.2:0', '3 0.2:1']"
        assert [e.fan_out for e in await played.happened(FanOutStarted) if isinstance(e, FanOutStarted)] == [0, 1, 2]

    async def test_each_of_several_fan_outs_goes_on_after_a_crash(self) -> None:
        done: list[Json] = []
        gate = asyncio.Event()

        async def each(_: ItemContext, word: Json) -> Json:
            if word == "late":
                await gate.wait()
            done.append(word)
            return word.upper()

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            first, second = await asyncio.gather(turn.map(["a", "b"], each), turn.map(["c", "late"], each))
            return [turn.say(" ".join([*first, *second, *await turn.map(["d"], each)]))]

        played = stage(one_node(work))
        started = await played.begin("go")
        played.turns.start(started.loaded, Metadata())
        while len(await played.happened(ItemCompleted)) < 3:
            await asyncio.sleep(0)
        await played.turns.abandon(played.thread_id)
        gate.set()
        async with played.worker().working():
            state = await played.settled()
        assert sorted(map(str, done)) == ["a", "b", "c", "d", "late"]
        assert state.thread.window[-1].content == "A B C LATE D"  # type: ignore[union-attr]

    async def test_the_items_of_all_fan_outs_of_a_node_are_limited(self) -> None:
        async def same(_: ItemContext, item: Json) -> Json:
            return item

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            await turn.map(list(range(600)), same, at_once=600)
            await turn.map(list(range(401)), same)
            return ()

        played = stage(one_node(work))
        await played.say("go")
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert "a node may have at most 1000 items, not 1001" in failed.detail

    async def test_a_tool_can_be_called_for_each_item(self) -> None:
        seen: list[str] = []

        @tool(idempotent=True)
        async def stock(article: str, context: ToolContext) -> str:
            """Look up the stock."""
            seen.append(context.idempotency_key.split(":", 2)[2])
            if article == "none":
                raise ToolError("unknown article")
            return f"{article}: 3"

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            articles = [{"article": word} for word in turn.user_input.split()]
            found = await turn.map(articles, stock, retry=RetryPolicy(1))
            return [turn.say(", ".join(found))]

        played = stage(one_node(work, tools=[stock]))
        loaded = await played.say("shirt shoe")
        assert loaded.state.thread.window[-1].content == "shirt: 3, shoe: 3"  # type: ignore[union-attr]
        assert sorted(seen) == ["0:0", "0:1"]
        await played.say("none")
        failed = [event.error for event in await played.happened(ItemFailed) if isinstance(event, ItemFailed)]
        assert failed == ["ToolError: unknown article"]

    @pytest.mark.parametrize("how", [{"idempotent": False}, {"idempotent": True, "approval": True}])
    async def test_a_tool_that_could_run_twice_or_wait_cannot(self, how: dict[str, bool]) -> None:
        @tool(**how)  # type: ignore[call-overload, untyped-decorator]
        async def send(text: str) -> str:
            """Send."""
            raise AssertionError(text)

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(str(await turn.map([{"text": "a"}], send)))]

        played = stage(one_node(work))
        await played.say("go")
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert "the tool 'send' must be idempotent and need no approval" in failed.detail
