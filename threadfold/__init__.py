"""What authors of agents and tools import.

```python
from threadfold import assistant, tool


@tool(idempotent=True)
async def look_up(query: str) -> str:
    \"\"\"Look up an order, such as A-17.\"\"\"
    return {"A-17": "shipped on Monday"}.get(query, "unknown")


agent = assistant("desk", tools=[look_up])
```

docs/agents.md is the guide. Every name that it uses is one of these:

Agents and graphs:

| name | what it is |
| --- | --- |
| `assistant` | makes an agent with the built-in graph: answer, run tools, answer again |
| `Agent` | a graph with its tools, its instructions, its model and perhaps a version |
| `Graph` | nodes and the edges between them; checked when it is built |
| `Node` | one step: an async function with a timeout, a retry policy, perhaps an approval, and its earlier names |
| `NodeFunction` | the type of that function: takes a `TurnContext`, returns a sequence of `NodeEvent` |
| `Edge` | the name of the next node, `END`, or a `Branch` |
| `Branch` | an edge that depends on the state after the node |
| `Choose` | the type of a branch's function: takes a `Running`, returns a label |
| `ValuesModel` | the type of `Graph.values`: a class that is a pydantic model or a msgspec struct |
| `Subgraph` | a graph as a node of another graph |
| `RetryPolicy` | how often a node, an item or a tool is tried, with exponential backoff |
| `END` | where an edge leads when the turn is over |
| `Strategy` | what happens to a message that arrives while a turn runs: an agent's `busy` |
| `ASSISTANT_NODES`, `ASSISTANT_EDGES` | the nodes and edges of the built-in graph, to build your own from |

What a node works with:

| name | what it is |
| --- | --- |
| `TurnContext` | what a node is given: the state, and methods that speak, call models and run tools |
| `ItemContext` | what the function of `TurnContext.map` is given for one item |
| `ItemNodeContext` | what a node of a graph that `TurnContext.map` runs for each item is given |
| `Each` | the type of that function |
| `Running` | the state of a thread during a turn: `thread` and `turn` |
| `Thread` | the part of the state that lasts from turn to turn: `values`, `window`, `summary` and so on |
| `Turn` | the part of the state that is about the turn in progress: `node`, `attempt`, `calls` and so on |
| `Message` | one message of `Thread.window` |
| `Call` | one tool call of `Turn.calls` that has no result yet |
| `ThreadId` | the id of a thread, a UUID |
| `Json`, `JsonObject` | any JSON value; a JSON object |

The events that a node returns:

| name | made by |
| --- | --- |
| `NodeEvent` | the union of the types below |
| `MessageAppended` | `TurnContext.say`, `TurnContext.generate` |
| `ToolRequested` | `TurnContext.request`, `TurnContext.generate` |
| `StateUpdated` | `TurnContext.update` |
| `HistoryCompacted` | `TurnContext.compact` |
| `ContextAssembled`, `ModelCalled`, `BudgetThresholdReached` | `TurnContext.generate` and `compact`: pass them on |

Tools:

| name | what it is |
| --- | --- |
| `tool` | makes a tool of a function: its name, docstring and signature are what the model is shown |
| `Tool` | a tool as data, for those whose schema is not a Python signature |
| `ToolSpec` | a tool as the model is shown it: name, description, JSON schema of the arguments |
| `ToolHandler` | the type of the function that a `Tool` runs |
| `ToolContext` | what a tool can know about its call: subject, actor, values, `deps`, idempotency key |
| `ToolOutcome` | what became of a call: tool, arguments, status and content |
| `outcomes` | the outcomes of the last calls, from the state; for branches |
| `Deps` | the type variable of `ToolContext[Deps]`: the type of the object that the agent has for its tools |
| `Values` | the type variable of `ToolContext[Deps, Values]`: the model of the graph's values |
| `Approval` | whether a person must agree to a call: always, never, or depending on the arguments |
| `ToolCheck` | the type of a function that refuses arguments of a `Tool` by raising `InvalidArguments` |
| `IfUnknown` | who is asked about a call whose process died: the model or a person |

Errors:

| name | what it means |
| --- | --- |
| `ToolError` | raise it in a tool: its message is shown to the model, which can try something else |
| `ApprovalRequired` | `ToolContext.require_approval` suspends a call by it, a `BaseException`: do not catch it |
| `InvalidArguments` | arguments do not fit a tool; raised by a `ToolCheck`, with the field's name for people |
| `Retry` | raise it in a tool: the model is asked to call again with something corrected, within a bound |
| `ModelError` | `TurnContext.generate` or `ask` got no usable answer; the node's retry policy applies |
| `AnswerInvalid` | the `ModelError` of an answer that is not of the type `output`, also after a correction |
| `BudgetExhausted` | too little of a budget is left for this model call; the turn ends |
| `PromptTooLarge` | the instructions, tools and newest messages do not fit into the context window |
| `MissingNode` | a decision or a retry is refused: no agent has the node where the turn stands; in tests of upgrades |
| `WaitsForPerson` | the turn has to wait for an approval or an answer: do not catch it |
| `InvalidGraph` | a graph cannot be built, or a branch chose a label that it does not have |
| `InvalidInput` | a value cannot be stored, such as a message that is too long; names the field |
| `ThreadfoldError` | the base class of all of these but `ApprovalRequired` |
"""

from domain.agents.agent import Agent, Each, ItemContext, ItemNodeContext, TurnContext
from domain.agents.assistant import EDGES as ASSISTANT_EDGES
from domain.agents.assistant import NODES as ASSISTANT_NODES
from domain.agents.assistant import assistant
from domain.agents.graph import Branch, Choose, Edge, Graph, Node, NodeFunction, RetryPolicy, Subgraph
from domain.agents.outcomes import ToolOutcome, outcomes
from domain.agents.tools import Approval, Deps, IfUnknown, Tool, ToolCheck, ToolContext, ToolHandler, Values, tool
from domain.agents.values import ValuesModel
from domain.errors import (
    ApprovalRequired,
    BudgetExhausted,
    InvalidArguments,
    InvalidGraph,
    InvalidInput,
    MissingNode,
    PromptTooLarge,
    Retry,
    ThreadfoldError,
    ToolError,
    WaitsForPerson,
)
from domain.ids import ThreadId
from domain.json import Json, JsonObject
from domain.models.chat import AnswerInvalid, ModelError, ToolSpec
from domain.thread.events import (
    END,
    BudgetThresholdReached,
    ContextAssembled,
    HistoryCompacted,
    MessageAppended,
    ModelCalled,
    NodeEvent,
    StateUpdated,
    Strategy,
    ToolRequested,
)
from domain.thread.state import Call, Message, Running, Thread, Turn

__all__ = [
    "ASSISTANT_EDGES",
    "ASSISTANT_NODES",
    "END",
    "Agent",
    "AnswerInvalid",
    "Approval",
    "ApprovalRequired",
    "Branch",
    "BudgetExhausted",
    "BudgetThresholdReached",
    "Call",
    "Choose",
    "ContextAssembled",
    "Deps",
    "Each",
    "Edge",
    "Graph",
    "HistoryCompacted",
    "IfUnknown",
    "InvalidArguments",
    "InvalidGraph",
    "InvalidInput",
    "ItemContext",
    "ItemNodeContext",
    "Json",
    "JsonObject",
    "Message",
    "MessageAppended",
    "MissingNode",
    "ModelCalled",
    "ModelError",
    "Node",
    "NodeEvent",
    "NodeFunction",
    "PromptTooLarge",
    "Retry",
    "RetryPolicy",
    "Running",
    "StateUpdated",
    "Strategy",
    "Subgraph",
    "Thread",
    "ThreadId",
    "ThreadfoldError",
    "Tool",
    "ToolCheck",
    "ToolContext",
    "ToolError",
    "ToolHandler",
    "ToolOutcome",
    "ToolRequested",
    "ToolSpec",
    "Turn",
    "TurnContext",
    "Values",
    "ValuesModel",
    "WaitsForPerson",
    "assistant",
    "outcomes",
    "tool",
]
