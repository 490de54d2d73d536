"""The built-in agent: a model answers, its tool calls run, and the model sees their errors and can correct them.

```
route_intent ── tool ──> execute_tool ──> generate_response ── tools ──> execute_tool
             └─ direct ─> generate_response ── over_window ──> compact_history ──> finalize_turn ──> END
                                            └─ done ─> finalize_turn
```

The nodes are exported for use in other graphs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from domain.agents.agent import Agent, TurnContext
from domain.agents.callables import described, name_of
from domain.agents.graph import REPEAT_LIMIT, STEP_LIMIT, Branch, Edge, Graph, Node, RetryPolicy
from domain.agents.tools import Tool
from domain.agents.values import ValuesModel
from domain.errors import InvalidInput
from domain.json import JsonObject, check_json
from domain.prompt.compaction import is_full, is_outgrown
from domain.thread.events import END, NodeEvent
from domain.thread.state import Running

MODEL_TIMEOUT_S = 3_630.0
"""Seconds that a node with a model has: longer than any time limit of a model, so that only the latter applies."""

INSTRUCTIONS = """\
You are a helpful assistant. Answer briefly. Use a tool where it knows better than you, and say so when a tool failed.
"""


async def route_intent(turn: TurnContext) -> Sequence[NodeEvent]:
    """Call a tool without the model if the user wrote a slash command and the agent allows it."""
    command = slash_command(turn.agent, turn.user_input) if turn.agent.slash_commands else None
    return turn.request(command[0], **command[1]) if command else ()


async def generate_response(turn: TurnContext) -> Sequence[NodeEvent]:
    """Let the model answer or call tools."""
    return await turn.generate()


async def execute_tool(turn: TurnContext) -> Sequence[NodeEvent]:
    """Run the open tool calls at the same time. The model sees their errors."""
    await turn.run_tools()
    return ()


async def compact_history(turn: TurnContext) -> Sequence[NodeEvent]:
    """Summarise older messages to make room in the live window."""
    return await turn.compact()


async def finalize_turn(_: TurnContext) -> Sequence[NodeEvent]:
    """End the turn."""
    return ()


def wants_tool(state: Running) -> str:
    """After `route_intent`: run a tool call, or ask the model?"""
    return "tool" if state.turn.calls else "direct"


def after_response(state: Running) -> str:
    """After `generate_response`: run tool calls, summarise, or end the turn?"""
    if state.turn.calls:
        return "tools"
    return "over_window" if is_full(state.thread) or is_outgrown(state.thread) else "done"


NODES: Sequence[Node] = (
    Node("route_intent", route_intent, timeout=5),
    Node("execute_tool", execute_tool, timeout=300),
    Node("generate_response", generate_response, timeout=MODEL_TIMEOUT_S, retry=RetryPolicy(attempts=3)),
    Node("compact_history", compact_history, timeout=MODEL_TIMEOUT_S),
    Node("finalize_turn", finalize_turn, timeout=5),
)

EDGES: Mapping[str, Edge] = {
    "route_intent": Branch(wants_tool, {"tool": "execute_tool", "direct": "generate_response"}),
    "execute_tool": "generate_response",
    "generate_response": Branch(
        after_response, {"tools": "execute_tool", "over_window": "compact_history", "done": "finalize_turn"}
    ),
    "compact_history": "finalize_turn",
    "finalize_turn": END,
}


def assistant(
    name: str = "assistant",
    *,
    instructions: str = INSTRUCTIONS,
    tools: Sequence[Tool] = (),
    model: str | None = None,
    slash_commands: bool = False,
    step_limit: int = STEP_LIMIT,
    repeat_limit: int | None = REPEAT_LIMIT,
    deps: Any = None,
    values: ValuesModel | None = None,
    output: Any = str,
) -> Agent:
    """Make an agent with the built-in graph, whose `step_limit`, `repeat_limit` and `values` can be set.

    `output` is the type of the final answers, as of any `Agent`.
    A tool call takes two steps: in the first the model requests it, in the second it runs.
    """
    _check_tools(name, tools)
    # A slow tool times out by itself before its node does, so that it does not fail the whole turn.
    slowest = max((tool.longest for tool in tools), default=0.0) + 30.0
    nodes = [replace(node, timeout=max(node.timeout, slowest)) if node.run is execute_tool else node for node in NODES]
    graph = Graph(name, "route_intent", nodes, EDGES, step_limit, repeat_limit, values)
    return Agent(graph, instructions, tools, model, slash_commands=slash_commands, output=output, deps=deps)


def _check_tools(name: str, tools: object) -> None:
    """Check what type hints say, for authors without a type checker."""
    if not isinstance(tools, Sequence):
        raise TypeError(f"{name}: tools must be a list, as in tools=[look_up], not {described(tools)}")
    if other := next((tool for tool in tools if not isinstance(tool, Tool)), None):
        what = f"{described(other)} {name_of(other)!r}" if callable(other) else described(other)
        raise TypeError(f"{name}: tools must be made with @tool or Tool(...), not {what}")


def slash_command(agent: Agent, text: str) -> tuple[str, JsonObject] | None:
    """Parse `/tool {"json": "object"}`, or `/tool text` for the tool's first parameter; None if it is neither."""
    if not text.startswith("/"):
        return None
    name, _, rest = text[1:].strip().partition(" ")
    tool = agent.by_name.get(name)
    if tool is None:
        return None
    if rest.lstrip().startswith("{"):
        try:
            arguments = json.loads(rest)
            check_json(arguments, "arguments")
        except (ValueError, RecursionError, InvalidInput):
            return None
        return (name, arguments)
    first = next(iter(tool.spec.parameters.get("properties", {})), None)
    return (name, {first: rest.strip()} if first and rest.strip() else {})
