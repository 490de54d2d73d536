"""`turn.map` over graphs: each item runs all nodes, with values of its own, and goes on in the middle after a crash."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from domain.agents.references import calls_of_context, mapped_by
from domain.errors import InvalidGraph, InvalidInput
from domain.thread.codec import Metadata
from domain.thread.commands import AdvanceItem
from domain.thread.decider import decider
from domain.thread.events import (
    FanOutStarted,
    ItemAdvanced,
    ItemCompleted,
    ItemFailed,
    ModelAnswered,
    NodeFailed,
    TurnFailed,
)
from domain.thread.state import Idle, Item, Running
from tests.support.given import A_RUNNING_TURN, TURN, running
from tests.support.runtime import Stage, one_node, says, stage
from tests.unit.test_replay import replayed
from threadfold import (
    END,
    Agent,
    Branch,
    Graph,
    ItemContext,
    ItemNodeContext,
    Json,
    Node,
    NodeEvent,
    RetryPolicy,
    Subgraph,
    ToolContext,
    TurnContext,
    tool,
)
from threadfold.testing import Conversation, Script

SOON = RetryPolicy(3, first_delay=0.0)


async def look(item: ItemNodeContext) -> Sequence[NodeEvent]:
    return [item.update(found=await item.ask(f"look {item.values['order']}"))]


async def judge(item: ItemNodeContext) -> Sequence[NodeEvent]:
    return [item.update(verdict=await item.ask(f"judge {item.values['order']} {item.values['found']}"))]


async def refuse(item: ItemNodeContext) -> Sequence[NodeEvent]:
    return [item.update(verdict="no", found=None)]


def is_there(state: Running) -> str:
    return "there" if state.thread.values["found"] != "nothing" else "not"


REVIEW = Graph(
    "review",
    "look",
    [Node("look", look), Node("judge", judge), Node("refuse", refuse)],
    {"look": Branch(is_there, {"there": "judge", "not": "refuse"}), "judge": END, "refuse": END},
)

ORDERS: list[Json] = [{"order": "A"}, {"order": "B"}, {"order": "none"}]


def answer(prompt: str) -> str:
    return "nothing" if prompt == "look none" else prompt.upper()


def mapping(graph: Graph, items: Sequence[Json] = ORDERS, **more: Any) -> Agent:
    async def work(turn: TurnContext) -> Sequence[NodeEvent]:
        results = await turn.map(items, graph, **more)
        return [turn.update(results=list(results)), turn.say(f"{len(results)} done")]

    return Agent(Graph("desk", "work", [Node("work", work, retry=RetryPolicy(2, first_delay=0.0))], {"work": END}))


class Asked:
    """A model that answers `answer`, and counts what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def script(self) -> Script:
        def line(prompt: Any) -> str:
            self.prompts.append(prompt.last)
            return answer(prompt.last)

        return Script(otherwise=line)


def a_graph(run: Callable[[Any], Any], **more: Any) -> Graph:
    return Graph("one", "only", [Node("only", run, **more)], {"only": END})


def failure(graph: Graph, **more: Any) -> Any:
    async def played() -> str:
        played = stage(mapping(graph, **more))
        await played.say("go")
        failed = (await played.happened(TurnFailed))[0]
        assert isinstance(failed, TurnFailed)
        return failed.detail

    return played()


MAPPING = running(*A_RUNNING_TURN, FanOutStarted([{"order": "A"}, {"order": "B"}], each="review"))


class TestDeciding:
    def advance(self, state: Running, done: int = 0, step: int = 0, values: Any = None) -> Sequence[Any]:
        report = AdvanceItem(TURN, step, 1, done, "look", "judge", values or {"found": 1}, 5)
        return decider.decide(report, state)

    def test_a_node_of_an_item_ends_once(self) -> None:
        (moved,) = self.advance(MAPPING)
        assert moved == ItemAdvanced(1, "look", "judge", {"found": 1}, 5)
        after = running(*A_RUNNING_TURN, FanOutStarted([{"order": "A"}, {"order": "B"}]), moved)
        assert after.turn.items == (
            Item({"order": "A"}),
            Item({"order": "B"}, step=1, node="judge", values={"found": 1}),
        )
        assert self.advance(after) == (), "the same report again"
        assert self.advance(after, done=1)
        assert self.advance(MAPPING, step=1) == (), "the turn is at another node"

    def test_what_an_item_asked_at_a_node_is_forgotten_at_the_next(self) -> None:
        asked = [ModelAnswered(0, "yes", "digest", "Is it?", item=item, item_node="look") for item in (0, 1)]
        state = running(
            *A_RUNNING_TURN, FanOutStarted([{}, {}]), *asked, ItemFailed(0, 1, "e", 5), ItemAdvanced(0, "a", "b", {}, 1)
        )
        assert [answer.item for answer in state.turn.answers] == [1]
        assert state.turn.items == (Item({}, step=1, node="b"), Item({}))

    def test_a_complete_item_keeps_only_its_result(self) -> None:
        events = (FanOutStarted([{}, {}]), ItemAdvanced(1, "a", "b", {"n": 1}, 1), ItemCompleted(1, {"n": 2}, 1))
        state = running(*A_RUNNING_TURN, *events)
        assert state.turn.items == (Item({}), Item({}, done=True, result={"n": 2}))
        assert self.advance(state) == ()

    def test_values_may_be_larger_than_results(self) -> None:
        assert self.advance(MAPPING, values={"page": "x" * 200_000})
        with pytest.raises(InvalidInput, match="values: may take 262,144 characters"):
            self.advance(MAPPING, values={"page": "x" * 300_000})


class TestItems:
    async def test_each_item_runs_all_nodes_with_values_of_its_own(self) -> None:
        asked = Asked()
        talk = Conversation(mapping(REVIEW), asked.script())
        turn = await talk.say("go")
        assert turn.answer == "3 done"
        assert (await talk.thread()).values == {
            "results": [
                {"order": "A", "found": "LOOK A", "verdict": "JUDGE A LOOK A"},
                {"order": "B", "found": "LOOK B", "verdict": "JUDGE B LOOK B"},
                {"order": "none", "verdict": "no"},
            ]
        }
        (started,) = [e for e in turn.events if isinstance(e, FanOutStarted)]
        assert started.each == "review"
        moved = {(e.index, e.node, e.next) for e in turn.events if isinstance(e, ItemAdvanced)}
        assert moved == {(0, "look", "judge"), (1, "look", "judge"), (2, "look", "refuse")}
        places = {(e.item, e.item_node) for e in turn.events if isinstance(e, ModelAnswered)}
        assert places == {(0, "look"), (1, "look"), (2, "look"), (0, "judge"), (1, "judge")}

    async def test_no_more_items_run_at_once_than_allowed(self) -> None:
        at_work, most = 0, 0

        async def count(_: ItemNodeContext) -> Sequence[NodeEvent]:
            nonlocal at_work, most
            at_work, most = at_work + 1, max(most, at_work + 1)
            await asyncio.sleep(0)
            at_work -= 1
            return []

        two = Graph("two", "a", [Node("a", count), Node("b", count)], {"a": "b", "b": END})
        await stage(mapping(two, [{}] * 7, at_once=2)).say("go")
        assert most == 2

    async def test_a_context_has_the_turns_message_and_a_key_for_each_node(self) -> None:
        seen: list[tuple[str, str, str, str]] = []

        async def note(item: ItemNodeContext) -> Sequence[NodeEvent]:
            seen.append((item.user_input, item.agent.name, item.subject, item.idempotency_key.split(":", 2)[2]))
            item.values["order"] = "changed"
            item.state.thread.values["order"] = "changed"
            return []

        twice = Graph("twice", "a", [Subgraph("a", a_graph(note)), Node("b", note)], {"a": "b", "b": END})
        talk = Conversation(mapping(twice, [{"order": "A"}]), Script(), subject="customer-1")
        turn = await talk.say("go")
        assert seen == [("go", "desk", "customer-1", "0:0:0"), ("go", "desk", "customer-1", "0:0:1")]
        (moved,) = [e for e in turn.events if isinstance(e, ItemAdvanced)]
        assert (moved.node, moved.next, moved.values) == ("a/only", "b", {"order": "A"})

    async def test_typed_values_begin_with_their_defaults(self) -> None:
        class Review(BaseModel):
            order: str
            stars: int = 3

        async def double(item: ItemNodeContext) -> Sequence[NodeEvent]:
            return [item.update(stars=item.values.stars * 2)]

        async def spoil(item: ItemNodeContext) -> Sequence[NodeEvent]:
            return [item.update(stars="many")]

        typed = Graph("typed", "only", [Node("only", double)], {"only": END}, values=Review)
        played = stage(mapping(typed, [{"order": "A"}]))
        loaded = await played.say("go")
        assert isinstance(loaded.state, Idle)
        assert loaded.state.thread.values == {"results": [{"order": "A", "stars": 6}]}
        assert "items.0.order: Field required" in await failure(typed, items=[{}])
        wrong = replace(typed, nodes=[Node("only", spoil)])
        assert "values.stars: Input should be a valid integer" in await failure(wrong, items=[{"order": "A"}])

    async def test_a_failed_node_is_tried_again_and_not_the_nodes_before_it(self) -> None:
        visits: list[str] = []

        async def first(item: ItemNodeContext) -> Sequence[NodeEvent]:
            visits.append("first")
            return [item.update(word=await item.ask("first"))]

        async def second(item: ItemNodeContext) -> Sequence[NodeEvent]:
            visits.append("second")
            if await item.ask("second") == "no":
                raise ValueError("not yet")
            return []

        two = Graph("two", "a", [Node("a", first), Node("b", second, retry=SOON)], {"a": "b", "b": END})
        played = stage(mapping(two, [{}]), says("word"), says("no"), says("yes"))
        loaded = await played.say("go")
        assert isinstance(loaded.state, Idle)
        assert loaded.state.thread.values == {"results": [{"word": "word"}]}
        assert visits == ["first", "second", "second"]
        (failed,) = await played.happened(ItemFailed)
        assert isinstance(failed, ItemFailed)
        assert (failed.attempt, failed.retry_in_ms) == (1, 0)

    async def test_after_a_failure_of_the_turns_node_an_item_goes_on_at_its_node(self) -> None:
        visits: list[str] = []

        async def first(_: ItemNodeContext) -> Sequence[NodeEvent]:
            visits.append("first")
            return []

        async def second(_: ItemNodeContext) -> Sequence[NodeEvent]:
            visits.append("second")
            if len(visits) == 2:
                raise ValueError("not yet")
            return []

        two = Graph("two", "a", [Node("a", first), Node("b", second)], {"a": "b", "b": END})
        played = stage(mapping(two, [{}]))
        await played.say("go")
        assert visits == ["first", "second", "second"]
        assert len(await played.happened(NodeFailed)) == 1

    async def test_a_node_that_takes_too_long_has_failed(self) -> None:
        async def sleep(_: ItemNodeContext) -> Sequence[NodeEvent]:
            await asyncio.sleep(30)
            return []

        assert "NodeTimeout: did not end within 0.01 s" in await failure(a_graph(sleep, timeout=0.01), items=[{}])

    async def test_an_endless_loop_ends(self) -> None:
        async def again(_: ItemNodeContext) -> Sequence[NodeEvent]:
            return []

        loop = Graph(
            "loop", "a", [Node("a", again)], {"a": Branch(lambda _: "on", {"on": "a", "end": END})}, step_limit=3
        )
        assert "Item 0 took 3 steps, the limit of the graph 'loop'" in await failure(loop, items=[{}])


class TestCrashes:
    @pytest.mark.parametrize(
        "point", [f"{when} {name}" for when in ("before", "after") for name in ("ItemAdvanced", "ItemCompleted")]
    )
    async def test_an_item_goes_on_where_it_was(self, point: str) -> None:
        asked = Asked()
        talk = Conversation(mapping(REVIEW, at_once=1), asked.script())
        assert (await talk.say("go", crash=point)).status == "crashed"
        turn = await talk.resume()
        assert turn.answer == "3 done"
        assert asked.prompts.count("look A") == asked.prompts.count("judge A LOOK A") == 1
        assert {"look B", "judge B LOOK B", "look none"} < set(asked.prompts)
        done = [e.index for e in await talk.events() if isinstance(e, ItemCompleted)]
        assert sorted(done) == [0, 1, 2]

    async def test_nodes_that_are_complete_do_not_run_again(self) -> None:
        visits: list[str] = []

        async def visit(item: ItemNodeContext) -> Sequence[NodeEvent]:
            visits.append(item.idempotency_key.split(":", 2)[2])
            return [item.update(n=item.values["n"] + 1)]

        three = Graph("three", "a", [Node(n, visit) for n in "abc"], {"a": "b", "b": "c", "c": END})
        talk = Conversation(mapping(three, [{"n": 0}], at_once=1), Script())
        await talk.say("go", crash="after ItemAdvanced")
        await talk.resume()
        assert visits == ["0:0:0", "0:0:1", "0:0:2"]
        assert (await talk.thread()).values == {"results": [{"n": 3}]}


class TestUpgrades:
    async def left_at_judge(self) -> Stage:
        """Stop where item 0 has completed `look`: the model does not answer `judge`."""
        played = stage(mapping(REVIEW, [{"order": "A"}]), says("there"), asyncio.CancelledError())  # type: ignore[arg-type]
        begun = await played.begin("go")
        run = asyncio.create_task(played.turns.run(begun.loaded, Metadata()))
        await played.saved(ItemAdvanced)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        played.script.lines = [says("fine")]
        return played

    async def resumed(self, played: Stage, graph: Graph) -> Stage:
        again = replace(played, agent=mapping(graph, [{"order": "A"}]))
        again.forget_hot()
        async with again.worker().working():
            await again.settled()
        return again

    async def test_an_item_goes_on_at_a_renamed_node(self) -> None:
        renamed = Graph(
            "review",
            "look",
            [Node("look", look), Node("rate", judge, aliases=("judge",))],
            {"look": "rate", "rate": END},
        )
        played = await self.resumed(await self.left_at_judge(), renamed)
        state = (await played.repository.load(played.thread_id)).state
        assert isinstance(state, Idle)
        assert state.thread.values["results"] == [{"order": "A", "found": "there", "verdict": "fine"}]

    async def test_a_missing_node_is_named_with_the_alias_to_add(self) -> None:
        gone = Graph("review", "look", [Node("look", look), Node("rate", judge)], {"look": "rate", "rate": END})
        played = await self.resumed(await self.left_at_judge(), gone)
        (failed,) = await played.happened(TurnFailed)
        assert isinstance(failed, TurnFailed)
        assert "Item 0 stands at the node 'judge', which review does not have." in failed.detail
        assert "aliases=('judge',)" in failed.detail


class TestRefusals:
    def test_approvals_are_refused_when_the_graph_is_made(self) -> None:
        careful = a_graph(look, approval=True)
        with pytest.raises(InvalidGraph, match=r"one: node .only. must not need an approval, because turn\.map"):
            mapping(careful)

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("ask_customer", "ask before turn.map"),
            ("ask_person", "ask before turn.map"),
            ("generate", "use ask"),
            ("run_tools", "map the tool itself"),
            ("request", "map the tool itself"),
            ("say", "say it after turn.map"),
            ("compact", "in a node of its own"),
            ("map", "one list of all items"),
        ],
    )
    async def test_what_an_item_cannot_do_is_refused_when_the_graph_is_made(self, name: str, advice: str) -> None:
        scope: dict[str, Any] = {}
        exec(f"async def only(turn):\n    return [await turn.{name}('what?')]\n", scope)
        with pytest.raises(InvalidGraph, match=f"node 'only' must not call {name}, .*{advice}"):
            mapping(a_graph(scope["only"]))

        async def hidden(turn: Any) -> Any:
            return [await getattr(turn, name)("what?")]

        assert f"must not call {name}" in await failure(a_graph(hidden), items=[{}])

    def test_graphs_in_helpers_and_subgraphs_are_found(self) -> None:
        async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.update(size=await turn.ask_customer("Which size?"))]

        inner = Graph("outer", "sub", [Subgraph("sub", a_graph(ask))], {"sub": END})

        async def helper(turn: TurnContext) -> Sequence[Json]:
            return await turn.map([{}], inner)

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            await helper(turn)
            return []

        with pytest.raises(InvalidGraph, match="node 'sub/only' must not call ask_customer"):
            one_node(work)

    def test_methods_are_read_like_functions(self) -> None:
        class Desk:
            async def ask(self, turn: TurnContext) -> Sequence[NodeEvent]:
                return [turn.say("Hello")]

        with pytest.raises(InvalidGraph, match="node 'only' must not call say"):
            mapping(a_graph(Desk().ask))

    def test_a_graph_that_is_not_mapped_may_ask(self) -> None:
        async def ask(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(await turn.ask_customer("Which size?"))]

        asking = a_graph(ask)

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(asking.name)]

        assert one_node(work)
        assert mapped_by(work, Graph) == []
        assert calls_of_context(ask, ["ask_customer", "ask"]) == ["ask_customer"]

    async def test_items_and_retry_are_checked_before_the_list_begins(self) -> None:
        assert "items.1: must be an object" in await failure(REVIEW, items=[{"order": "A"}, "B"])
        assert "retry: a graph's nodes have retry policies" in await failure(REVIEW, retry=SOON)

    async def test_a_node_returns_only_changes_of_the_items_values(self) -> None:
        async def talk(_: ItemNodeContext) -> Any:
            return [ItemCompleted(0, None, 0)]

        async def forget(_: ItemNodeContext) -> Any:
            return None

        assert "facts.0: a node that turn.map runs for an item can change" in await failure(a_graph(talk), items=[{}])
        assert "events: return a list of events; without any, return []" in await failure(a_graph(forget), items=[{}])


class TestReplay:
    async def test_items_of_graphs_are_replayed_exactly(self) -> None:
        async def shaky(item: ItemNodeContext) -> Sequence[NodeEvent]:
            if await item.ask("sure?") == "no":
                raise ValueError("not sure")
            return [item.update(word=await item.ask(f"word {item.values['order']}"))]

        two = Graph("two", "a", [Node("a", look), Node("b", shaky, retry=SOON)], {"a": "b", "b": END})
        lines = [says(text) for text in ("there", "no", "yes", "word")]
        played = stage(mapping(two, [{"order": "A"}]), *lines)
        await played.say("go")
        (turn,) = await replayed(played)
        assert (turn.verdict, turn.unknown, turn.parted) == ("same", None, None)
        assert turn.now == turn.then

    async def test_no_tool_is_called_for_the_items_of_a_list(self) -> None:
        calls: list[str] = []

        @tool(idempotent=True)
        async def stock(article: str, context: ToolContext) -> str:
            """Look up the stock."""
            calls.append(context.idempotency_key)
            if article == "shoe" and len(calls) == 2:
                raise ValueError("busy")
            return f"{article}: {len(calls)}"

        async def work(turn: TurnContext) -> Sequence[NodeEvent]:
            articles: list[Json] = [{"article": "shirt"}, {"article": "shoe"}]
            return [turn.say(", ".join(await turn.map(articles, stock, retry=SOON, at_once=1)))]

        async def more(turn: TurnContext) -> Sequence[NodeEvent]:
            return [turn.say(str(await turn.map([{"article": "hat"}], stock, retry=RetryPolicy(1))))]

        played = stage(one_node(work))
        await played.say("go")
        assert len(calls) == 3
        (turn,) = await replayed(played)
        assert (turn.verdict, turn.now.answer) == ("same", "shirt: 1, shoe: 3")
        (turn,) = await replayed(played, one_node(more))
        assert (turn.verdict, turn.unknown) == ("unknown", 'the result of stock {"article":"hat"}')
        assert len(calls) == 3


async def test_a_function_of_an_item_may_take_over_from_a_graph() -> None:
    async def each(item: ItemContext, order: Json) -> Json:
        return [order, item.idempotency_key.split(":", 2)[2]]

    played = stage(mapping(each, [{"order": "A"}]))  # type: ignore[arg-type]
    loaded = await played.say("go")
    assert isinstance(loaded.state, Idle)
    assert loaded.state.thread.values == {"results": [[{"order": "A"}, "0:0"]]}
