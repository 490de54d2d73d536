"""Open turns that the agents of a process cannot continue: their agent or their node is missing."""

from collections.abc import Iterator
from typing import Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from domain.agents.registry import Agents
from domain.thread.state import Running, State

Missing: TypeAlias = Literal["agent", "node"]


class MissingTurn(Struct, frozen=True):
    """A turn that is running, waits for a person, or is queued, and what is missing to continue it.

    `version` is the agent's version that the turn began with; the process may have others.
    """

    turn_id: UUID
    agent: str
    version: str
    node: str
    status: Literal["running", "waiting", "queued"]
    missing: Missing


def missing_turns(agents: Agents, state: State) -> Iterator[MissingTurn]:
    """Yield the thread's turn in progress and its queued turns, if `agents` cannot continue them."""
    if not isinstance(state, Running):
        return
    turn, name = state.turn, state.thread.graph
    if missing := _missing(agents, name, turn.agent_version, turn.node):
        status: Literal["running", "waiting"] = "waiting" if state.waiting else "running"
        yield MissingTurn(turn.turn_id, name, turn.agent_version, turn.node, status, missing)
    for queued in state.thread.queue:
        if missing := _missing(agents, name, queued.agent_version, queued.node):
            yield MissingTurn(queued.turn_id, name, queued.agent_version, queued.node, "queued", missing)


def _missing(agents: Agents, name: str, version: str, node: str) -> Missing | None:
    agent = agents.of_version(name, version)
    if agent is None:
        return "agent"
    return None if agent.graph.find(node) else "node"
