"""Answers about the agents' graphs."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from api.schemas.view import view_of
from domain.agents.agent import Agent
from domain.agents.mermaid import mermaid
from domain.agents.registry import Agents
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
    """A node of a graph. `next` is the node after it, or the nodes after it by label. `aliases` are its old names."""

    name: str
    timeout: float
    attempts: int
    approval: bool
    next: str | Mapping[str, str]
    aliases: Sequence[str]


class GraphView(Struct, frozen=True):
    """The graph of one version of an agent. The current version takes new turns."""

    name: str
    version: str
    current: bool
    fingerprint: str
    start: str
    step_limit: int
    nodes: Sequence[NodeView]
    tools: Sequence[ToolView]
    mermaid: str


_APPROVAL: Mapping[object, Literal["always", "never"]] = {True: "always", False: "never"}


def graph_view(agent: Agent, *, current: bool = True) -> GraphView:
    """Show the graph and the tools of a version of an agent."""
    graph = agent.graph
    nodes = []
    for node in graph.by_name.values():
        targets = {label: target for source, label, target in graph.arrows() if source == node.name}
        following = targets[""] if targets.keys() == {""} else targets
        aliases = [alias for alias, name in graph.aliases.items() if name == node.name]
        nodes.append(NodeView(node.name, node.timeout, node.retry.attempts, node.approval, following, aliases))
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
    return GraphView(
        name=graph.name,
        version=agent.version,
        current=current,
        fingerprint=graph.fingerprint,
        start=graph.first,
        step_limit=graph.step_limit,
        nodes=nodes,
        tools=tools,
        mermaid=mermaid(graph),
    )


def graph_views(agents: Agents) -> Sequence[GraphView]:
    """Show every version of every agent, by name; of an agent, in the order of listing."""
    return [graph_view(agent, current=agents[agent.name] is agent) for agent in agents.all()]
