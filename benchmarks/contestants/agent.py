"""Threadfold's part: an agent whose graph is that of the other contestants, and a model that answers at once.

```
route_intent ── tool ──> execute_tool ──> generate_response ──> finalize_turn ──> END
             └─ direct ──────────────────>
```
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from benchmarks.contestants.exchanges import exchange_of, exchanges
from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Branch, Graph, Node
from domain.agents.tools import tool
from domain.models.chat import ChatAnswer, ChatRequest, OnDelta, Usage
from domain.thread.events import END, NodeEvent
from domain.thread.state import Running
from examples.airline.recordings import canonical


@cache
def _results() -> dict[str, str]:
    return {canonical([exchange.tool, exchange.arguments]): exchange.result for exchange in exchanges()}


@tool(idempotent=True)
async def desk(call: str, arguments: dict[str, Any]) -> str:
    """Ask the airline's systems."""
    return _results()[canonical([call, arguments])]


async def route_intent(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask for a tool: a rule, no model."""
    exchange = exchange_of(turn.user_input)
    return turn.request("desk", call=exchange.tool, arguments=dict(exchange.arguments))


async def execute_tool(turn: TurnContext) -> Sequence[NodeEvent]:
    """Run it."""
    await turn.run_tools()
    return ()


async def generate_response(turn: TurnContext) -> Sequence[NodeEvent]:
    """Let the model answer."""
    return await turn.generate()


async def finalize_turn(_: TurnContext) -> Sequence[NodeEvent]:
    """End the turn."""
    return ()


def wants_tool(state: Running) -> str:
    """After `route_intent`: is there a call to run?"""
    return "tool" if state.turn.calls else "direct"


airline = Agent(
    Graph(
        "airline",
        start="route_intent",
        nodes=[
            Node("route_intent", route_intent),
            Node("execute_tool", execute_tool),
            Node("generate_response", generate_response),
            Node("finalize_turn", finalize_turn),
        ],
        edges={
            "route_intent": Branch(wants_tool, {"tool": "execute_tool", "direct": "generate_response"}),
            "execute_tool": "generate_response",
            "generate_response": "finalize_turn",
            "finalize_turn": END,
        },
    ),
    instructions="You answer the customers of an airline.",
    tools=[desk],
)


class InstantModel:
    """Implements `domain.models.chat.ChatModel`: answers what the recorded agent has answered, at once."""

    async def close(self) -> None:
        """Let go of nothing."""

    async def complete(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Find the answer by what the customer said last."""
        said = next(message.content for message in reversed(request.messages) if message.role == "user")
        exchange = exchange_of(said or "")
        if on_delta is not None:
            on_delta(exchange.answer)
        usage = Usage(exchange.prompt_tokens, exchange.completion_tokens)
        return ChatAnswer(exchange.answer, (), "stop", "instant", usage)
