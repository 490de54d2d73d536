"""An airline's service desk: 14 tools, a policy and a graph of its own.

```
AGENTS=examples.airline.agent:airline
```

The graph is the built-in one with two edges of its own, which the 40 recorded conversations need:

- The customer hangs up: the last message contains `###STOP###`, alone or after words of thanks. 31 conversations end
  so. The turn ends without a call of the model.
- `transfer_to_human_agents` succeeded: 9 conversations end with its result. A person takes over, so the model must not
  say anything more.

The desk has no booking system. Its tools repeat the recorded results: of the same call of the same conversation if this
thread replays one, otherwise of the same tool with the same arguments.
"""

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import takewhile
from uuid import UUID

from examples.airline.recordings import DATA, canonical, recorded_calls, recorded_calls_in, replayed_in
from threadfold import (
    ASSISTANT_EDGES,
    ASSISTANT_NODES,
    Agent,
    Branch,
    Edge,
    Graph,
    JsonObject,
    Running,
    Tool,
    ToolContext,
    ToolError,
    ToolHandler,
    ToolSpec,
)

HANGS_UP = "###STOP###"
TRANSFER = "transfer_to_human_agents"
TRANSFERRED = "Transfer successful"

WRITES = frozenset(
    {
        "book_reservation",
        "cancel_reservation",
        "send_certificate",
        "update_reservation_baggages",
        "update_reservation_flights",
        "update_reservation_passengers",
        TRANSFER,
    }
)
"""Tools with an effect. After a crash they are not run again, and their result says so."""


def hangs_up(state: Running) -> str:
    """After `route_intent`: has the customer said goodbye?"""
    said = state.thread.window[-1].content or ""
    return "goodbye" if HANGS_UP in said else "question"


def handed_over(state: Running) -> str:
    """After `execute_tool`: has a person taken over?"""
    results = takewhile(lambda message: message.role == "tool", reversed(state.thread.window))
    over = any(result.name == TRANSFER and result.content == TRANSFERRED for result in results)
    return "handed_over" if over else "goes_on"


MY_EDGES: Mapping[str, Edge] = {
    **ASSISTANT_EDGES,
    "route_intent": Branch(hangs_up, {"goodbye": "finalize_turn", "question": "generate_response"}),
    "execute_tool": Branch(handed_over, {"handed_over": "finalize_turn", "goes_on": "generate_response"}),
}


@cache
def _results() -> Mapping[tuple[str, str], str]:
    """Return the tools' results by tool and arguments: the first one where results differ."""
    return {(call.name, call.arguments): call.content for call in reversed(recorded_calls())}


@lru_cache(maxsize=256)
def _results_in(thread_id: UUID) -> Mapping[tuple[str, str, str], str]:
    """Return the tools' results in the conversation that a thread replays; nothing if it replays none.

    A model may use a call id again, even within a turn. Within one conversation, the id together with the tool and the
    arguments has one result.
    """
    try:
        conversation = replayed_in(thread_id)
    except KeyError:
        return {}
    return {(call.call_id, call.name, call.arguments): call.content for call in recorded_calls_in(conversation)}


def _recorded(name: str) -> ToolHandler:
    async def run(arguments: JsonObject, context: ToolContext) -> str:
        call = (name, canonical(arguments))
        content = _results_in(context.thread_id).get((context.call_id, *call), _results().get(call))
        if content is None:
            raise ToolError(f"Error: this desk has no record of {name} with these arguments")
        if content.startswith("Error: "):
            raise ToolError(content)
        return content

    return run


async def think(_: JsonObject, __: ToolContext) -> str:
    """Answer nothing: the thought is in the call."""
    return ""


async def calculate(arguments: JsonObject, _: ToolContext) -> str:
    """Evaluate `+ - * /` over numbers, to two decimals."""
    try:
        value = _value(ast.parse(arguments["expression"], mode="eval").body)
        return str(round(float(value), 2))
    except (KeyError, TypeError, ValueError, SyntaxError, ArithmeticError, RecursionError) as error:
        raise ToolError(f"Error: {error}") from error


_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left), _value(right))
        case _:
            raise ValueError("only numbers and + - * / ( ) can be calculated")


def _tools() -> Sequence[Tool]:
    """Make the tools of `tools.json`. Their schemas are what they were when the conversations were recorded."""
    real: Mapping[str, ToolHandler] = {"think": think, "calculate": calculate}
    specs = [ToolSpec(**described["function"]) for described in json.loads((DATA / "tools.json").read_bytes())]
    return [Tool(spec, real.get(spec.name, _recorded(spec.name)), idempotent=spec.name not in WRITES) for spec in specs]


airline = Agent(
    Graph("airline", "route_intent", ASSISTANT_NODES, MY_EDGES),
    instructions=(DATA / "policy.md").read_text(encoding="utf-8"),
    tools=_tools(),
)
