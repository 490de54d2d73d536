"""The agents of a process, by name and version."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from domain.agents.agent import Agent
from domain.agents.graph import alias_advice
from domain.errors import MissingNode
from domain.ids import TurnId
from domain.thread.events import END
from domain.thread.state import Idle, Running, State


class Agents(Mapping[str, Agent]):
    """Agents by name. Of several versions of an agent, the last one listed is current: it takes new turns."""

    def __init__(self, versions: Mapping[str, Sequence[Agent]]) -> None:
        """`versions` has each agent's versions, at least one, under the name that threads are opened with."""
        self._versions = versions
        self._found = {(name, agent.version): agent for name, agents in versions.items() for agent in reversed(agents)}

    @classmethod
    def listed(cls, agents: Iterable[Agent]) -> "Agents":
        """Make a registry of agents in the order of their listing."""
        versions: dict[str, list[Agent]] = {}
        for agent in agents:
            versions.setdefault(agent.name, []).append(agent)
        return cls(versions)

    @classmethod
    def of(cls, agents: Mapping[str, Agent]) -> "Agents":
        """Return a mapping as a registry: each agent in it has one version, unless it is a registry already."""
        return agents if isinstance(agents, Agents) else cls({name: [agent] for name, agent in agents.items()})

    def __getitem__(self, name: str) -> Agent:
        """Return the current version of an agent."""
        return self._versions[name][-1]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._versions)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._versions)

    def versions(self, name: str) -> Sequence[Agent]:
        """Return the versions of an agent in the order of their listing; the last one is current. May be empty."""
        return self._versions.get(name, ())

    def announced(self) -> Sequence[str]:
        """Return what a worker announces to the others: the agents' names, and a key of each version's graph."""
        return [*self, *(graph_key(agent.name, agent.version, agent.graph.fingerprint) for agent in self.all())]

    def all(self) -> Sequence[Agent]:
        """Return every version of every agent, by name, in the order of their listing."""
        return [agent for name in sorted(self._versions) for agent in self._versions[name]]

    def find(self, name: str, version: str) -> Agent | None:
        """Return exactly this version of an agent, or None."""
        return self._found.get((name, version))

    def running(self, state: Running) -> Agent | None:
        """Return the agent that runs a turn: the version that the turn began with, else the current one.

        None if there is no agent of this name.
        """
        return self.of_version(state.thread.graph, state.turn.agent_version)

    def of_version(self, name: str, version: str) -> Agent | None:
        """Return a version of an agent, or the current one if it is missing. None if there is no agent of this name."""
        return self._found.get((name, version)) or self.get(name)

    def check_node(self, state: State) -> None:
        """Raise `MissingNode` if the agent of the turn in progress is here, and lacks the node that is in flight."""
        agent = self.running(state) if isinstance(state, Running) else None
        if isinstance(state, Running) and agent and agent.graph.find(state.turn.node) is None:
            raise MissingNode(agent.name, state.turn.node, agent.graph.by_name, alias_advice(state.turn.node))

    def to_retry(self, current: Agent, state: Idle | Running, retried: TurnId) -> tuple[Agent, str]:
        """Return the last listed version of an agent that has the node where a turn ended, and the node's name in it.

        Returns the current version and "" if the turn cannot be retried, whatever its agent. Raises `MissingNode`.
        """
        last = state.thread.last_turn
        if isinstance(state, Running) or not last or last.turn_id != retried or last.node in {None, END}:
            return current, ""
        stood_at = last.node or ""
        for agent in reversed(self.versions(current.name)):
            if node := agent.graph.find(stood_at):
                return agent, node.name
        raise MissingNode(current.name, stood_at, current.graph.by_name, alias_advice(stood_at))


def graph_key(name: str, version: str, fingerprint: str) -> str:
    """Return what identifies the nodes of one version of an agent to other processes."""
    return f"{name}\n{version}\n{fingerprint}"
