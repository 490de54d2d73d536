"""Answers about the agents' graphs."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from api.schemas.view import view_of
from domain.agents.agent import Agent
from domain.agents.mermaid import mermaid
from domain.json import JsonObject


class ToolView(Struct, frozen=True):
    """A tool of an agent."""

    name: str
    description: str
    parameters: JsonObject
    timeout: float
    idempotent: bool
    after_crash: Literal["retry", "ask_model", "ask_person"]
    approval: Literal["always", "never", "depends"]


class NodeView(Struct, frozen=True):
    """A node of a graph. `next` is the node after it, or the nodes after it by label."""

    name: str
    timeout: float
    attempts: int
    approval: bool
    next: str | Mapping[str, str]


class GraphView(Struct, frozen=True):
    """An agent's graph."""

    name: str
    fingerprint: str
    start: str
    step_limit: int
    nodes: Sequence[NodeView]
    tools: Sequence[ToolView]
    mermaid: str


_APPROVAL: Mapping[object, Literal["always", "never"]] = {True: "always", False: "never"}


def graph_view(agent: Agent) -> GraphView:
    """Show an agent's graph and tools."""
    graph = agent.graph
    nodes = []
    for node in graph.by_name.values():
        targets = {label: target for source, label, target in graph.arrows() if source == node.name}
        following = targets[""] if targets.keys() == {""} else targets
        nodes.append(NodeView(node.name, node.timeout, node.retry.attempts, node.approval, following))
    tools = [
        view_of(
            ToolView,
            tool,
            description=tool.spec.description,
            parameters=tool.spec.parameters,
            approval=_APPROVAL.get(tool.approval, "depends"),
        )
        for tool in agent.tools
    ]
    return GraphView(graph.name, graph.fingerprint, graph.first, graph.step_limit, nodes, tools, mermaid(graph))
