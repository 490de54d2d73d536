"""Versions of an agent for replays: named in AGENTS as `tests.support.replayed_agents:<name>`."""

import json
from collections.abc import Sequence

from tests.fakes.openai_server import Reply, Request, completion
from threadfold import END, Agent, Graph, Node, NodeEvent, TurnContext, assistant, tool

CALLS: list[int] = []
"""What `double` was called with in this process."""


@tool(idempotent=True)
async def double(number: int) -> int:
    """Double a number."""
    CALLS.append(number)
    return number * 2


desk = assistant("desk", tools=[double], instructions="You are a desk.")
polite = assistant("polite", tools=[double], instructions="You are a desk. Be polite about refunds.")
"""`desk` with one more instruction, which matters where a customer speaks of a refund."""


async def _ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say(await turn.ask("What is meant?"))]


curious = Agent(Graph("curious", "ask", [Node("ask", _ask)], {"ask": END}))
"""Asks the model something that `desk` does not."""

AGENTS = tuple(f"tests.support.replayed_agents:{name}" for name in ("desk", "polite", "curious"))


def answer(request: Request) -> Reply:
    """Answer as the model: call `double` for `double N`, and follow the instructions of `polite`."""
    messages = request.body["messages"]
    last, instructions = messages[-1], str(messages[0]["content"])
    text = str(last["content"])
    if last["role"] == "user" and text.startswith("double "):
        arguments = json.dumps({"number": int(text.removeprefix("double "))})
        call = {"id": "c1", "type": "function", "function": {"name": "double", "arguments": arguments}}
        return completion(None, [call], "tool_calls", model="threadfold-offline")
    kindly = "Be polite about refunds." in instructions and "refund" in text
    return completion(f"Of course: {text}" if kindly else f"You said: {text}", model="threadfold-offline")
