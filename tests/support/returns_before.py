"""The returns desk as it was before its upgrade: its node `settle` was called `pay`."""

from dataclasses import replace

from msgspec.structs import replace as replace_fields

from domain.agents.graph import Graph, Node, Subgraph
from examples.returns.agent import desk, take_back


def _renamed(node: Node | Subgraph) -> Node | Subgraph:
    if isinstance(node, Subgraph):
        return replace(node, graph=_before)
    return replace_fields(node, name="pay", aliases=()) if node.name == "settle" else node


_before = Graph(
    take_back.name,
    take_back.start,
    [_renamed(node) for node in take_back.nodes],
    {"check": "pay", "pay": "confirm", "confirm": take_back.edges["confirm"]},
)
desk_1 = replace(desk, graph=replace(desk.graph, nodes=[_renamed(node) for node in desk.graph.nodes]), version="1")
