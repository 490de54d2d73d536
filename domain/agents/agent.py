"""An agent, and what its nodes can do during a turn."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

from domain.agents.graph import Graph, Retry
from domain.agents.tools import Tool
from domain.errors import InvalidGraph
from domain.ids import ThreadId
from domain.json import Json
from domain.thread.events import MessageAppended, NodeEvent, StateUpdated, Strategy
from domain.thread.state import Running

RETRY_ITEMS = Retry(attempts=3)


@dataclass(frozen=True)
class Agent:
    """A graph with its tools and instructions. Its graph's name is the agent's name.

    `busy` says what becomes of a message while a turn runs, unless the message says so itself.

    `model` None means the one that the settings' policy chooses. Of the thread's values, the model is shown
    `shown_values`. With `slash_commands`, a user may call a tool without the model:
    `/calculate 2 + 3`.
    """

    graph: Graph
    instructions: str = ""
    tools: Sequence[Tool] = ()
    model: str | None = None
    temperature: float | None = None
    slash_commands: bool = False
    busy: Strategy = "reject"
    shown_values: Sequence[str] = ()

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


class ItemContext(Protocol):
    """What a function is given that works on one item of a list; see `TurnContext.map`."""

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""

    @property
    def state(self) -> Running:
        """The state before the list was begun."""

    @property
    def idempotency_key(self) -> str:
        """The same whenever this item is worked on again; never the same for another one."""

    async def ask(self, prompt: str, instructions: str = "") -> str:
        """Ask the model something that is not part of the conversation. Raises `ModelError`."""


Each: TypeAlias = Callable[[ItemContext, Json], Awaitable[Json]]
"""Works on one item. Its result is JSON, of at most 16,384 characters; of more than 256 items, of fewer."""


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
        """Make the fact that the agent says something, in at most 200,000 characters."""

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeEvent]:
        """Make the facts that the agent wants a tool to run, without a model. `run_tools` runs it.

        The arguments may take 256 kB as JSON.
        """

    def update(self, **values: Json) -> StateUpdated:
        """Make the fact that some of the thread's values change; None removes one. All may take 256 kB as JSON."""

    async def generate(self, instructions: str | None = None) -> Sequence[NodeEvent]:
        """Call the model with the conversation so far and return what it says and asks for.

        `instructions` replace the agent's own for this call. Raises `ModelError`.
        """

    async def run_tools(self) -> None:
        """Run every open tool call, at the same time, recording each start and outcome as it happens."""

    async def map(
        self, items: Sequence[Json], each: Each, *, at_once: int = 8, retry: Retry = RETRY_ITEMS
    ) -> Sequence[Json]:
        """Work on each of some items, several at once, and return their results in the items' order.

        Each result is recorded as it comes: after a crash, only what is missing is worked on. `items` count at the
        first attempt; they are recorded, too. Once a node. Raises the error of the first item that fails for good.
        """

    async def compact(self) -> Sequence[NodeEvent]:
        """Return the fact that older messages leave the live window for a summary; nothing if there are none."""
