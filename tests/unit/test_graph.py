"""A graph is checked when it is built; the error says which name is wrong."""

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from domain.agents.assistant import assistant
from domain.agents.graph import Branch, Edge, Graph, Node, RetryPolicy, Subgraph, alias_advice
from domain.agents.mermaid import mermaid
from domain.agents.tools import tool
from domain.errors import InvalidGraph
from domain.thread.events import END, MessageAppended, NodeEvent
from tests.support.given import A_RUNNING_TURN, running


async def nothing(_: Any) -> Sequence[NodeEvent]:
    return ()


def build(edges: Mapping[str, Edge], *names: str, start: str = "a", step_limit: int = 50) -> Graph:
    return Graph("shop", start, [Node(name, nothing) for name in names or ("a", "b")], edges, step_limit)


def branch(**targets: str) -> Branch:
    return Branch(lambda _: next(iter(targets)), targets)


@pytest.mark.parametrize(
    ("edges", "names", "message"),
    [
        ({"a": "b", "b": END}, ("a", "b", "b"), "two nodes are named 'b'"),
        ({"a": END, "END": END}, ("a", "END"), "must not be named 'END'"),
        ({"a": "b"}, ("a", "b"), "no edge leaves 'b'"),
        ({"b": END}, ("b",), "the start 'a' is not a node"),
        ({"a": "b", "b": END, "c": END}, ("a", "b"), "an edge leaves 'c', which is not a node"),
        ({"a": "b", "b": "nowhere"}, ("a", "b"), "the edge from 'b' leads to 'nowhere', which is not a node"),
        ({"a": branch(x="nowhere"), "b": END}, ("a", "b"), "the edge from 'a' leads to 'nowhere'"),
        ({"a": END, "b": END}, ("a", "b"), "'b' cannot be reached from 'a'"),
        ({"a": branch(x="b", y=END), "b": "b"}, ("a", "b"), "no path leads from 'b' to END"),
    ],
)
def test_a_wrong_graph_is_refused_by_name(edges: Mapping[str, Edge], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidGraph, match=f"shop: .*{message}"):
        build(edges, *names)


def test_a_graph_may_have_cycles() -> None:
    graph = build({"a": "b", "b": branch(again="a", done=END)})
    assert graph.after("b", running(*A_RUNNING_TURN)) == "a"


def test_a_branch_that_chooses_an_unknown_label_is_named() -> None:
    graph = build({"a": Branch(lambda _: "left", {"right": "b"}), "b": END})
    with pytest.raises(InvalidGraph, match="the branch after 'a' chose 'left'; its labels are right"):
        graph.after("a", running(*A_RUNNING_TURN))


def test_a_step_limit_below_one_is_refused() -> None:
    with pytest.raises(InvalidGraph, match="step_limit must be at least 1, not 0"):
        build({"a": "b", "b": END}, step_limit=0)


def test_a_fingerprint_changes_with_the_shape_only() -> None:
    one = build({"a": "b", "b": END})
    same = build({"b": END, "a": "b"}, "b", "a")
    other = build({"a": branch(x="b", y=END), "b": END})
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_delays_grow_up_to_a_limit_and_end() -> None:
    retry = RetryPolicy(attempts=5, first_delay=1, factor=3, longest_delay=5)
    assert [retry.delay_after(n) for n in range(1, 6)] == [1, 3, 5, 5, None]


def test_a_graph_is_drawn_with_its_labels_escaped() -> None:
    graph = build({"a": Branch(lambda _: "", {'"say <b>"': "b", "stop": END}), "b": END})
    assert mermaid(graph).splitlines() == [
        "flowchart TD",
        "    start(( )) --> n0",
        '    n0["a"]',
        '    n1["b"]',
        "    finish([END])",
        '    n0 -. "&quot;say &lt;b&gt;&quot;" .-> n1',
        '    n0 -. "stop" .-> finish',
        "    n1 --> finish",
    ]


def test_the_built_in_graph_has_the_documented_paths() -> None:
    assert set(assistant().graph.arrows()) == {
        ("route_intent", "tool", "execute_tool"),
        ("route_intent", "direct", "generate_response"),
        ("execute_tool", "", "generate_response"),
        ("generate_response", "tools", "execute_tool"),
        ("generate_response", "over_window", "compact_history"),
        ("generate_response", "done", "finalize_turn"),
        ("compact_history", "", "finalize_turn"),
        ("finalize_turn", "", "END"),
    }


def plain(_: object) -> list[NodeEvent]:
    return []


async def async_generator(_: object) -> AsyncIterator[NodeEvent]:
    yield MessageAppended("assistant", "hi", 1)


class Shop:
    async def __call__(self, _: object) -> list[NodeEvent]:
        return []


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (plain, "a plain function"),
        (lambda _: nothing(1), "a plain function"),
        (async_generator, "an async generator"),
        (functools.partial(plain), "a plain function"),
        (42, "int"),
    ],
)
def test_a_node_that_cannot_be_awaited_is_refused(run: Any, kind: str) -> None:
    with pytest.raises(InvalidGraph, match=rf"shop: node 'a' must be an async function \(async def\), not {kind}"):
        Graph("shop", "a", [Node("a", run)], {"a": END})


@pytest.mark.parametrize("run", [nothing, functools.partial(nothing), Shop(), functools.partial(Shop())])
def test_a_node_may_be_anything_that_can_be_awaited(run: Any) -> None:
    assert Graph("shop", "a", [Node("a", run)], {"a": END}).by_name["a"].run is run


def test_a_repeat_limit_below_two_is_refused() -> None:
    with pytest.raises(InvalidGraph, match="repeat_limit must be at least 2, or None for no limit, not 1"):
        Graph("shop", "a", [Node("a", nothing)], {"a": END}, repeat_limit=1)


def renamed(
    aliases: Sequence[str] = (),
    inner: Sequence[str] = (),
    step: Sequence[str] = (),
    moved: Mapping[str, str] | None = None,
) -> Graph:
    """Build a graph of a node `a` and a subgraph `pay` of two nodes; give `a`, `pay/check` and `pay` earlier names."""
    check = Node("check", nothing, aliases=inner)
    paying = Graph("paying", "check", [check, Node("send", nothing)], {"check": "send", "send": END})
    steps: list[Node | Subgraph] = [
        Node("a", nothing, aliases=aliases),
        Subgraph("pay", paying, aliases=step, moved=moved or {}),
    ]
    return Graph("shop", "a", steps, {"a": "pay", "pay": END})


def found(graph: Graph, name: str) -> str | None:
    node = graph.find(name)
    return node.name if node else None


@pytest.mark.parametrize(
    ("earlier", "today"),
    [
        ("a", "a"),
        ("begin", "a"),
        ("start/begin", "a"),
        ("pay/check", "pay/check"),
        ("pay/look", "pay/check"),
        ("settle/check", "pay/check"),
        ("settle/look", "pay/check"),
        ("settle/send", "pay/send"),
        ("settle", "pay/check"),
        ("forward", "pay/send"),
        ("pay", None),
        ("begin/check", None),
        ("nowhere", None),
        ("", None),
        ("END", None),
    ],
)
def test_a_node_is_found_by_its_earlier_names(earlier: str, today: str | None) -> None:
    graph = renamed(("begin", "start/begin"), ("look",), ("settle",), {"forward": "send"})
    assert found(graph, earlier) == today
    assert list(graph.by_name) == ["a", "pay/check", "pay/send"]
    assert graph.fingerprint == renamed().fingerprint
    if today:
        state = running(*A_RUNNING_TURN)
        assert graph.after(earlier, state) == graph.after(today, state)
        assert graph.chooses(earlier) is graph.chooses(today)


def test_a_subgraph_that_replaces_a_node_of_its_name_goes_on_at_its_start() -> None:
    assert found(renamed(step=("pay",)), "pay") == "pay/check"


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"aliases": "begin"}, r"the aliases of 'a' must be a tuple of names, such as \('begin',\)"),
        ({"aliases": ("a",)}, "the alias 'a' of 'a' is the name of a node"),
        ({"aliases": ("pay",)}, "the alias 'pay' of 'a' is the name of a node"),
        ({"aliases": ("pay/send",)}, "the alias 'pay/send' of 'a' is the name of a node"),
        ({"inner": ("send",)}, "the alias 'send' of 'check' is the name of a node"),
        ({"step": ("a",)}, "the alias 'a' of 'pay' is the name of a node"),
        ({"aliases": ("old",), "step": ("old",)}, "the alias 'old' is used twice, for 'a' and 'pay/check'"),
        ({"aliases": ("pay/old",), "inner": ("old",)}, "the alias 'pay/old' is used twice"),
        ({"aliases": ("END",)}, "'END' cannot be an alias of 'a'"),
        ({"moved": {"old": "nowhere"}}, "'old' moved to 'nowhere', which is not a node of 'pay'"),
        ({"moved": {"a": "send"}}, "the alias 'a' of 'pay/send' is the name of a node"),
        ({"aliases": ("old",), "moved": {"old": "send"}}, "the alias 'old' is used twice, for 'a' and 'pay/send'"),
        ({"aliases": ("",)}, "'' cannot be an alias of 'a'"),
    ],
)
def test_an_alias_that_could_mean_two_nodes_is_refused(aliases: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        renamed(**aliases)


def test_the_advice_about_a_missing_node_names_the_alias_and_the_place() -> None:
    assert "give it aliases=('close',);" in alias_advice("close")
    assert "give it aliases=('check',) in the subgraph 'pay/inner';" in alias_advice("pay/inner/check")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([nothing], {"nothing": END}, "nodes must be Node or Subgraph, as in Node.*, not a plain function"),
        ([Node("a", nothing)], [("a", END)], "edges must be a dict of nodes' names, not list"),
        ([Node("a", nothing)], {"a": nothing}, "the edge from 'a' must be the next node's name, .*, not a plain func"),
        ([Node("a", nothing)], {"a": Branch(lambda _: "x", ["a"])}, "the branch from 'a' needs a dict .*, not list"),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_another_kind_is_refused(nodes: Any, edges: Any, message: str) -> None:
    with pytest.raises(InvalidGraph, match=f"shop: {message}"):
        Graph("shop", "a", nodes, edges)


def test_the_assistant_takes_tools_only() -> None:
    def refund(order: str) -> str:
        return order

    with pytest.raises(TypeError, match=r"desk: tools must be made with @tool or .*, not a plain function 'refund'"):
        assistant("desk", tools=[refund])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"desk: tools must be a list, as in tools=\[look_up\], not Tool"):
        assistant("desk", tools=tool(refund))  # type: ignore[arg-type]
