"""Agents, and the contexts that their nodes use during a turn."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias, overload

from typing_extensions import TypeVar

from domain.agents.graph import Graph, RetryPolicy
from domain.agents.outcomes import ToolOutcome
from domain.agents.output import output_of
from domain.agents.tools import Tool
from domain.errors import InvalidGraph
from domain.ids import ThreadId
from domain.json import Json
from domain.thread.events import MessageAppended, NodeEvent, StateUpdated, Strategy
from domain.thread.state import Running

T = TypeVar("T")

Values_co = TypeVar("Values_co", covariant=True, default=Any)
"""The type of the values: the model of the graph."""

RETRY_ITEMS = RetryPolicy(attempts=3)
"""How often `turn.map` attempts an item by default. The nodes of an item's graph have policies of their own."""

MAX_VERSION_CHARS = 64
"""Characters of an agent's version."""


@dataclass(frozen=True)
class Agent:
    """A graph with its tools and instructions. The agent's name is its graph's name.

    `instructions` are text, or a plain function of the state that returns text. `output` is what the agent's final
    answers are: text, or a type as in `TurnContext.ask`; its JSON is then the message.
    `busy` is the strategy for a message that arrives during a turn, unless the message sets its own.
    `model` None means the model that the settings' policy chooses. `shown_values` names the thread's values that
    prompts contain. With `slash_commands`, a user may call a tool without the model: `/calculate 2 + 3`. Tools find
    `deps` in their `ToolContext`: one object in each process, such as a client of a shop.
    Agents of the same name may have several `version`s, each a text of at most 64 characters: the last one listed takes
    new turns, and a running turn keeps the version that it began with.
    """

    graph: Graph
    instructions: str | Callable[[Running], str] = ""
    tools: Sequence[Tool] = ()
    model: str | None = None
    temperature: float | None = None
    slash_commands: bool = False
    busy: Strategy = "reject"
    shown_values: Sequence[str] = ()
    output: Any = str
    version: str = ""
    deps: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the version, the output, and that the tools' names are unique. Raises `InvalidGraph`."""
        if not isinstance(self.version, str) or len(self.version) > MAX_VERSION_CHARS or not self.version.isprintable():
            raise InvalidGraph(
                f"{self.name}: version must be a text of at most {MAX_VERSION_CHARS} printable characters, such as "
                f"version='2', not {str(self.version)[:MAX_VERSION_CHARS]!r}"
            )
        if len(self.by_name) < len(self.tools):
            raise InvalidGraph(f"{self.name}: two tools have the same name")
        try:
            output_of(self.output)
        except TypeError as error:
            raise InvalidGraph(f"{self.name}: {error}") from error

    @property
    def name(self) -> str:
        """The name that threads are opened with."""
        return self.graph.name

    @cached_property
    def by_name(self) -> dict[str, Tool]:
        """The tools by their names."""
        return {tool.name: tool for tool in self.tools}


class ItemContext(Protocol):
    """The context of a function that processes one item of a list; see `TurnContext.map`."""

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""

    @property
    def state(self) -> Running:
        """The state before the first item."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this item, different for every other item."""

    @overload
    async def ask(self, prompt: str, instructions: str = "", *, model: str | None = None) -> str: ...
    @overload
    async def ask(self, prompt: str, instructions: str = "", *, output: type[T], model: str | None = None) -> T: ...
    @overload
    async def ask(self, prompt: str, instructions: str = "", *, output: Any, model: str | None = None) -> Any: ...
    async def ask(self, prompt: str, instructions: str = "", *, output: Any = str, model: str | None = None) -> Any:
        """Ask the model outside of the conversation; see `TurnContext.ask`."""


class ItemNodeContext(ItemContext, Protocol[Values_co]):
    """The context of a node of a graph that `TurnContext.map` runs for each item.

    `state` is the turn's state before the first item, with the item's own values. `idempotency_key` is the same for
    every attempt at this node of this item.
    """

    @property
    def agent(self) -> Agent:
        """The agent whose turn it is."""

    @property
    def values(self) -> Values_co:
        """The item's values now: an instance of the graph's model, or a copy as a dict. Changing it has no effect."""

    @property
    def subject(self) -> str:
        """The customer that the thread is about; see `TurnContext.subject`."""

    @property
    def user_input(self) -> str:
        """The user's message that started this turn."""

    def update(self, **values: Json) -> StateUpdated:
        """Return the event of a change of the item's values; None removes one."""


Each: TypeAlias = Callable[[ItemContext, Json], Awaitable[Json]]
"""Processes one item. Its result is JSON of at most 16,384 characters; less if there are more than 256 items."""


class TurnContext(Protocol[Values_co]):
    """A node's context: the thread's state, and what the node can do.

    `TurnContext[Return]` has `values` of the type `Return`, which is the `values` of the graph.
    """

    @property
    def thread_id(self) -> ThreadId:
        """The thread."""

    @property
    def agent(self) -> Agent:
        """The agent whose turn it is."""

    @property
    def state(self) -> Running:
        """The current state, with what this node has recorded so far. Changing it has no effect; see `update`."""

    @property
    def values(self) -> Values_co:
        """The thread's values now: an instance of the graph's model, or a copy as a dict. Changing it has no effect."""

    @property
    def subject(self) -> str:
        """The customer that the thread is about, as given when it was opened; "" if none was given."""

    @property
    def user_input(self) -> str:
        """The user's message that started this turn."""

    def say(self, content: str) -> MessageAppended:
        """Return the event of a message of the agent, of at most 200,000 characters."""

    def request(self, tool: str, /, **arguments: Json) -> Sequence[NodeEvent]:
        """Return the events that request a tool call without the model. `run_tools` runs it.

        The arguments may take 256 kB as JSON.
        """

    def update(self, **values: Json) -> StateUpdated:
        """Return the event of a change of the thread's values; None removes one. All may take 256 kB as JSON."""

    async def generate(
        self,
        instructions: str | None = None,
        *,
        tools: Sequence[Tool | str] | None = None,
        model: str | None = None,
        show: bool = True,
    ) -> Sequence[NodeEvent]:
        """Call the model with the conversation so far; return the events of its answer and its tool requests.

        `instructions` replace the agent's own for this call, `model` the agent's model. `tools` are those of the
        agent's tools that the model may call, by name; default all. The answer streams to clients unless `show` is
        False; if the node does not return its events, the text is withdrawn. Raises `ModelError`.
        """

    @overload
    async def ask(
        self, prompt: str, instructions: str = "", *, model: str | None = None, show: bool = False
    ) -> str: ...
    @overload
    async def ask(
        self, prompt: str, instructions: str = "", *, output: type[T], model: str | None = None, show: bool = False
    ) -> T: ...
    @overload
    async def ask(
        self, prompt: str, instructions: str = "", *, output: Any, model: str | None = None, show: bool = False
    ) -> Any: ...
    async def ask(
        self,
        prompt: str,
        instructions: str = "",
        *,
        output: Any = str,
        model: str | None = None,
        show: bool = False,
    ) -> Any:
        """Ask a model something that is not part of the conversation, and return its answer.

        `output` is what to answer with: text, a `Literal`, a pydantic model, a msgspec struct, a list of these ... The
        answer is validated; one that does not fit is corrected once. With `show`, clients see it being written, until
        it is complete. The answer is recorded: after a crash, a later attempt at the node uses it. After a failed
        attempt, the model is asked again. All attempts must ask in the same order.

        Raises:
            ModelError: no model answered; `AnswerInvalid`: the corrected answer does not fit either.
            TypeError: `output` is no type that can be described.
        """

    @overload
    async def ask_person(self, question: str) -> str: ...
    @overload
    async def ask_person(self, question: str, output: type[T]) -> T: ...
    @overload
    async def ask_person(self, question: str, output: Any) -> Any: ...
    async def ask_person(self, question: str, output: Any = str) -> Any:
        """Ask a person in charge, through the approvals API, and return the answer, of the type `output`.

        The turn waits, for days if need be, and uses no process meanwhile. When the answer is there, the node runs
        again from its beginning: answers of `ask`, results of `map` and of tools are recorded, everything else happens
        again. A node asks before it calls `generate`. Do not catch `WaitsForPerson`.
        """

    async def ask_customer(self, question: str) -> str:
        """Ask the customer: the question is a message of the agent, and the thread's next message is the answer.

        The turn waits as for `ask_person`. No tool call may be open.
        """

    async def run_tools(self) -> Sequence[ToolOutcome]:
        """Run all open tool calls concurrently. Each start and each outcome is recorded as it happens.

        Returns the outcomes of all calls of the agent's last message, in the order of the calls: also of those that
        were denied, and of those that an earlier attempt at this node ran. See `outcomes`.
        """

    async def map(
        self,
        items: Sequence[Json],
        each: Each | Tool | Graph,
        *,
        at_once: int = 8,
        retry: RetryPolicy | None = None,
    ) -> Sequence[Json]:
        """Process items, `at_once` of them concurrently, and return their results in the items' order.

        `each` is an async function, an idempotent tool that is called with each item as its arguments, or a graph. Each
        item runs the graph with values of its own: it begins with the item, an object, and its values at END are the
        result. Its nodes get an `ItemNodeContext`; each node's end is recorded, and a later attempt goes on there. A
        graph cannot wait for a person, and has nodes with retry policies of their own. Without `retry`, functions and
        tools are attempted three times.

        Each result is recorded as it arrives: after a crash, only the missing items are processed. The items of the
        first attempt are recorded, and later attempts use them. A node may call this several times: each attempt must
        make the calls in the same order. Raises the error of the first item whose attempts have all failed.
        """

    async def compact(self) -> Sequence[NodeEvent]:
        """Return the event that replaces older messages of the live window by a summary; nothing if there are none."""
