"""An agent's graph as data: nodes, and edges that are plain or depend on the state. It may have cycles.

A graph is checked when it is built. A node runs an async function from a `TurnContext` (see `domain/agents/agent.py`)
to events; this module only checks that the function is async.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from domain.agents.callables import described, is_async
from domain.agents.references import calls_of_context, mapped_by
from domain.agents.values import ValuesModel, is_model
from domain.errors import InvalidGraph
from domain.thread.events import END, NodeEvent
from domain.thread.state import Running

STEP_LIMIT = 1_000
"""Maximum nodes of a turn by default: more than real work needs."""

REPEAT_LIMIT = 20
"""Identical calls with identical results, by default, after which a turn fails because it makes no progress."""

MIN_REPEAT_LIMIT = 2

NodeFunction: TypeAlias = Callable[[Any], Awaitable[Sequence[NodeEvent]]]
"""Takes a `TurnContext`. Typed loosely, so that a node's parameter may be a narrower context."""

Choose: TypeAlias = Callable[[Running], str]
"""A pure function of the state after the node. It returns a label of its branch."""


class RetryPolicy(Struct, frozen=True):
    """How often a node, an item or a tool is attempted, and the seconds between attempts.

    The delays grow exponentially up to a maximum.
    """

    attempts: int = 1
    first_delay: float = 0.5
    factor: float = 2.0
    longest_delay: float = 30.0

    def delay_after(self, attempt: int) -> float | None:
        """Return the seconds to wait after a failed attempt, from 1; None if it was the last."""
        if attempt >= self.attempts:
            return None
        return min(self.first_delay * self.factor ** (attempt - 1), self.longest_delay)


class Node(Struct, frozen=True):
    """A step of the agent. `timeout` is in seconds, for each attempt. `approval`: a person must approve it first.

    `aliases` are names that the node had in earlier versions of its graph: turns that stand there go on at this node.
    """

    name: str
    run: NodeFunction
    timeout: float = 120.0
    retry: RetryPolicy = RetryPolicy()
    approval: bool = False
    aliases: Sequence[str] = ()


class Branch(Struct, frozen=True):
    """A conditional edge: `choose` returns a label, `targets` maps each label to a node."""

    choose: Choose
    targets: Mapping[str, str]


Edge: TypeAlias = str | Branch

NODE_SEPARATOR = "/"
"""Separates the name of a subgraph from the name of its node."""


@dataclass(frozen=True)
class Subgraph:
    """A graph as a step of another one: it runs from its start to its END, then the edge of this step follows.

    Its nodes become nodes of the outer graph, named `name/node`. So a turn can be resumed at each of them. `aliases`
    are names that the step had before: turns at `alias/node` go on at `name/node`. If the alias was a node, its turns
    go on at the first node of the subgraph. `moved` has earlier names of nodes of the outer graph, each with the node
    of `graph` that it is now.
    """

    name: str
    graph: "Graph"
    aliases: Sequence[str] = ()
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Steps and the edges between them. A turn starts at `start` and ends when an edge leads to `END`.

    `step_limit` is the number of nodes that one turn may complete, so that no loop is endless. `repeat_limit` ends a
    turn without progress earlier: when the model has requested the same tool with the same arguments that many times,
    and always got the same result, while nothing else was new. From a quarter of the limit on, the results tell the
    model so. None: only the step limit applies. A retry of a turn starts counting again.

    `values` is the model of the threads' values: a class that is a pydantic model or a msgspec struct. Without one,
    the values are any JSON object.

    Raises:
        InvalidGraph: a name or an alias is used twice, an edge has no target, a node cannot be reached, END cannot be
            reached from a node, a node's function is not async, or `values` is not a model.
    """

    name: str
    start: str
    nodes: Sequence[Node | Subgraph]
    edges: Mapping[str, Edge]
    step_limit: int = STEP_LIMIT
    repeat_limit: int | None = REPEAT_LIMIT
    values: ValuesModel | None = None

    def __post_init__(self) -> None:
        """Check the graph. Raises `InvalidGraph`."""
        _check(self)

    @cached_property
    def first(self) -> str:
        """The node at which a turn starts: the start, or the first node of the subgraph there."""
        return self._entry(self.start)

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by name, including those of subgraphs."""
        nodes: dict[str, Node] = {}
        for step in self.nodes:
            if isinstance(step, Subgraph):
                inner = (
                    replace(node, name=f"{step.name}{NODE_SEPARATOR}{name}")
                    for name, node in step.graph.by_name.items()
                )
                nodes |= {node.name: node for node in inner}
            else:
                nodes[step.name] = step
        return nodes

    def find(self, name: str) -> Node | None:
        """Return the node that has a name now, or had it before (an alias). None if there is none."""
        return self.by_name.get(self.aliases.get(name, name))

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """The earlier names of nodes, each with the node's name of today, including those of subgraphs."""
        return dict(self._former_names())

    def _former_names(self) -> Iterator[tuple[str, str]]:
        """Yield each earlier name and the name of today, in the order of the nodes."""
        for step in self.nodes:
            if isinstance(step, Node):
                yield from ((alias, step.name) for alias in step.aliases)
                continue
            inner = [*((name, name) for name in step.graph.by_name), *step.graph.aliases.items()]
            for place in (step.name, *step.aliases):
                for former, name in inner:
                    if (place, former) != (step.name, name):
                        yield f"{place}{NODE_SEPARATOR}{former}", f"{step.name}{NODE_SEPARATOR}{name}"
            yield from ((alias, self._entry(step.name)) for alias in step.aliases)
            yield from ((former, f"{step.name}{NODE_SEPARATOR}{name}") for former, name in step.moved.items())

    @cached_property
    def _subgraphs(self) -> Mapping[str, "Graph"]:
        return {step.name: step.graph for step in self.nodes if isinstance(step, Subgraph)}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the graph's nodes and edges: 12 hexadecimal digits."""
        edges = sorted(f"{source} {label} {target}" for source, label, target in self.arrows())
        shape = "\n".join([self.first, *sorted(self.by_name), *edges])
        return hashlib.sha256(shape.encode()).hexdigest()[:12]

    def arrows(self) -> list[tuple[str, str, str]]:
        """Return (source, label, target) for each edge between nodes; a plain edge's label is empty."""
        arrows = []
        for source, label, target in self.own_arrows():
            entry = self._entry(target)
            if source not in self._subgraphs:
                arrows.append((source, label, entry))
                continue
            for inner, inner_label, inner_target in self._subgraphs[source].arrows():
                if inner_target == END:
                    both = ", ".join(filter(None, (inner_label, label)))
                    arrows.append((f"{source}{NODE_SEPARATOR}{inner}", both, entry))
        for name, graph in self._subgraphs.items():
            arrows += [
                (f"{name}{NODE_SEPARATOR}{source}", label, f"{name}{NODE_SEPARATOR}{target}")
                for source, label, target in graph.arrows()
                if target != END
            ]
        return arrows

    def own_arrows(self) -> list[tuple[str, str, str]]:
        """Return (source, label, target) for each edge between steps, without the edges within subgraphs."""
        arrows = []
        for source, edge in self.edges.items():
            match edge:
                case str():
                    arrows.append((source, "", edge))
                case Branch():
                    arrows.extend((source, label, target) for label, target in edge.targets.items())
        return arrows

    def chooses(self, node: str) -> bool:
        """Return whether the edge from `node` depends on the state."""
        node = self.aliases.get(node, node)
        step, _, inner = node.partition(NODE_SEPARATOR)
        return not isinstance(self.edges[step], str) or bool(inner and self._subgraphs[step].chooses(inner))

    def after(self, node: str, state: Running) -> str:
        """Return the node after `node`. Raise `InvalidGraph` if a branch chose a label that it does not have."""
        node = self.aliases.get(node, node)
        step, _, inner = node.partition(NODE_SEPARATOR)
        if inner and (following := self._subgraphs[step].after(inner, state)) != END:
            return f"{step}{NODE_SEPARATOR}{following}"
        edge = self.edges[step]
        if isinstance(edge, str):
            return self._entry(edge)
        label = edge.choose(state)
        if label not in edge.targets:
            known = ", ".join(sorted(edge.targets))
            raise InvalidGraph(f"{self.name}: the branch after {step!r} chose {label!r}; its labels are {known}")
        return self._entry(edge.targets[label])

    def _entry(self, target: str) -> str:
        """Return the first node of a step."""
        graph = self._subgraphs.get(target)
        return f"{target}{NODE_SEPARATOR}{graph.first}" if graph else target


def alias_advice(node: str) -> str:
    """Say what an author can do about turns at a node that the agent does not have any more."""
    subgraph, _, name = node.rpartition(NODE_SEPARATOR)
    where = f" in the subgraph {subgraph!r}" if subgraph else ""
    return (
        f"If the node was renamed, give it aliases=({name!r},){where}; otherwise list the agent's earlier version in "
        "AGENTS as well"
    )


def _check(graph: Graph) -> None:
    _check_kinds(graph.name, graph.nodes, graph.edges)
    names = [node.name for node in graph.nodes]
    for name in names:
        if NODE_SEPARATOR in name:
            raise InvalidGraph(
                f"{graph.name}: {name!r} must not contain {NODE_SEPARATOR!r}, which separates the names of subgraphs"
            )
        if names.count(name) > 1:
            raise InvalidGraph(f"{graph.name}: two nodes are named {name!r}")
        if name == END:
            raise InvalidGraph(f"{graph.name}: a node must not be named {END!r}")
        if name not in graph.edges:
            raise InvalidGraph(f"{graph.name}: no edge leaves {name!r}; name the next node, or END")
    if graph.start not in names:
        raise InvalidGraph(f"{graph.name}: the start {graph.start!r} is not a node")
    for source, _, target in graph.own_arrows():
        if source not in names:
            raise InvalidGraph(f"{graph.name}: an edge leaves {source!r}, which is not a node")
        if target not in names and target != END:
            raise InvalidGraph(f"{graph.name}: the edge from {source!r} leads to {target!r}, which is not a node")
    _check_nodes(graph)
    _check_aliases(graph, names)
    _check_reach(graph, names)


def _check_kinds(name: str, nodes: Iterable[object], edges: object) -> None:
    """Check what type hints say, for authors without a type checker."""
    for node in nodes:
        if not isinstance(node, Node | Subgraph):
            kinds = "Node or Subgraph, as in Node('name', function)"
            raise InvalidGraph(f"{name}: nodes must be {kinds}, not {described(node)}")
    if not isinstance(edges, Mapping):
        raise InvalidGraph(f"{name}: edges must be a dict of nodes' names, not {described(edges)}")
    for source, edge in edges.items():
        if not isinstance(edge, str | Branch):
            kinds = "the next node's name, END or a Branch"
            raise InvalidGraph(f"{name}: the edge from {source!r} must be {kinds}, not {described(edge)}")
        targets: object = edge.targets if isinstance(edge, Branch) else {}
        if not isinstance(targets, Mapping):
            kinds = "a dict from labels to nodes, as in {'yes': 'pay', 'no': END}"
            raise InvalidGraph(f"{name}: the branch from {source!r} needs {kinds}, not {described(targets)}")


def _check_nodes(graph: Graph) -> None:
    if graph.values is not None and not is_model(graph.values):
        raise InvalidGraph(f"{graph.name}: values must be a class, a pydantic model or a msgspec struct")
    for step in graph.nodes:
        if isinstance(step, Subgraph) and step.graph.values not in {None, graph.values}:
            raise InvalidGraph(f"{graph.name}: {step.name!r} has another model of values; leave it out there")
    if graph.step_limit < 1:
        raise InvalidGraph(f"{graph.name}: step_limit must be at least 1, not {graph.step_limit}")
    if graph.repeat_limit is not None and graph.repeat_limit < MIN_REPEAT_LIMIT:
        least = f"at least {MIN_REPEAT_LIMIT}, or None for no limit"
        raise InvalidGraph(f"{graph.name}: repeat_limit must be {least}, not {graph.repeat_limit}")
    for node in graph.nodes:
        if isinstance(node, Node) and not is_async(node.run):
            raise InvalidGraph(
                f"{graph.name}: node {node.name!r} must be an async function (async def), not {described(node.run)}"
            )
        if isinstance(node, Node):
            for mapped in mapped_by(node.run, Graph):
                check_item_graph(mapped)


ITEM_ADVICE: Mapping[str, str] = {
    "say": "put the text into the item's values, and say it after turn.map",
    "generate": "use ask: an item is not part of the conversation",
    "request": "map the tool itself: turn.map(items, tool)",
    "run_tools": "map the tool itself: turn.map(items, tool)",
    "ask_person": "ask before turn.map, or put what is to be asked into the item's values and ask after it",
    "ask_customer": "ask before turn.map, or put what is to be asked into the item's values and ask after it",
    "compact": "compact in a node of its own",
    "map": "make one list of all items before turn.map",
}
"""What the nodes of an item's graph cannot call, and what to do instead."""


def check_item_graph(graph: Graph) -> None:
    """Check that `turn.map` can run a graph for each item of a list.

    Raises:
        InvalidGraph: a node needs an approval, or calls what only a node of the turn can do.
    """
    for node in graph.by_name.values():
        if node.approval:
            raise InvalidGraph(
                f"{graph.name}: node {node.name!r} must not need an approval, because turn.map runs this graph for "
                "each item; give the approval to the node that calls turn.map, or to a node before or after it"
            )
        for name in calls_of_context(node.run, ITEM_ADVICE):
            raise InvalidGraph(f"{graph.name}: {item_refusal(node.name, name)}")


def item_refusal(node: str, name: str) -> str:
    """Say that a node of an item's graph cannot call something, and what to do instead."""
    return f"node {node!r} must not call {name}, because turn.map runs it for each item of a list; {ITEM_ADVICE[name]}"


def _check_aliases(graph: Graph, names: list[str]) -> None:
    for step in graph.nodes:
        if isinstance(step.aliases, str):
            raise InvalidGraph(
                f"{graph.name}: the aliases of {step.name!r} must be a tuple of names, such as ({step.aliases!r},)"
            )
        for alias in step.aliases:
            if alias in {"", END}:
                raise InvalidGraph(f"{graph.name}: {alias!r} cannot be an alias of {step.name!r}")
            if alias in names and not (isinstance(step, Subgraph) and alias == step.name):
                raise InvalidGraph(f"{graph.name}: the alias {alias!r} of {step.name!r} is the name of a node")
        if not isinstance(step, Subgraph):
            continue
        for former, name in step.moved.items():
            if name not in step.graph.by_name:
                raise InvalidGraph(f"{graph.name}: {former!r} moved to {name!r}, which is not a node of {step.name!r}")
    seen: dict[str, str] = {}
    for alias, name in graph._former_names():  # noqa: SLF001  (a part of the graph's own check)
        if alias in graph.by_name:
            raise InvalidGraph(f"{graph.name}: the alias {alias!r} of {name!r} is the name of a node")
        if seen.setdefault(alias, name) != name:
            raise InvalidGraph(f"{graph.name}: the alias {alias!r} is used twice, for {seen[alias]!r} and {name!r}")


def _check_reach(graph: Graph, names: list[str]) -> None:
    pairs = {(source, target) for source, _, target in graph.own_arrows()}
    reached = _reachable(graph.start, pairs)
    ending = _reachable(END, {(target, source) for source, target in pairs})
    for name in names:
        if name not in reached:
            raise InvalidGraph(f"{graph.name}: {name!r} cannot be reached from {graph.start!r}")
        if name not in ending:
            raise InvalidGraph(f"{graph.name}: no path leads from {name!r} to END")


def _reachable(origin: str, pairs: set[tuple[str, str]]) -> set[str]:
    found, fresh = {origin}, {origin}
    while fresh:
        fresh = {target for source, target in pairs if source in fresh} - found
        found |= fresh
    return found
