"""An agent, and what its nodes can do during a turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from domain.errors import InvalidGraph
from domain.events import MessageAppended, NodeFact, StateUpdated, Strategy
from domain.graph import Graph
from domain.ids import ThreadId
from domain.json import Json
from domain.state import Running
from domain.tools import Tool


@dataclass(frozen=True)
class Agent:
    """A graph with its tools and instructions. Its graph's name is the agent's name.

    `busy` says what becomes of a message while a turn runs, unless the message says so itself.

    `model` None means the one of the settings. With `slash_commands`, a user may call a tool without the model:
    `/calculate 2 + 3`.
    """

    graph: Graph
    instructions: str = ""
    tools: Sequence[Tool] = ()
    model: str | None = None
    temperature: float | None = None
    slash_commands: bool = False
    busy: Strategy = "reject"

    def __post_init__(self) -> None:
        """Check that no two tools have the same name."""
        if len(self.by_name) < len(self.tools):
            raise InvalidGraph(f"{self.name}: two tools have the same name")

    @property
    def name(self) -> str:
        """The name that threads are opened with."""
        return self.graph.name

    @cached_property
    def by_name(self) -> dict[str, Tool]:
        """The tools by their names."""
        return {tool.name: tool for tool in self.tools}


class TurnContext(Protocol):
    """What a node is given: the thread's state, and the ways to act."""

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""

    @property
    def agent(self) -> Agent:
        """The agent whose turn it is."""

    @property
    def state(self) -> Running:
        """The state now, with what this node has recorded so far. Changing it has no effect; see `update`."""

    @property
    def user_input(self) -> str:
        """What the user said to start this turn."""

    def say(self, content: str) -> MessageAppended:
        """Make the fact that the agent says something."""

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeFact]:
        """Make the facts that the agent wants a tool to run, without a model. `run_tools` runs it."""

    def update(self, **values: Json) -> StateUpdated:
        """Make the fact that some of the thread's values change; None removes one."""

    async def generate(self, instructions: str | None = None) -> Sequence[NodeFact]:
        """Call the model with the conversation so far and return what it says and asks for.

        `instructions` replace the agent's own for this call. Raises `ModelError`.
        """

    async def run_tools(self) -> None:
        """Run every open tool call, at the same time, recording each start and outcome as it happens."""

    async def compact(self) -> Sequence[NodeFact]:
        """Return the fact that older messages leave the live window for a summary; nothing if there are none."""
