"""The agent `till` before and after a deployment that renames its node. Each is named in AGENTS."""

from collections.abc import Sequence

from threadfold import END, Agent, Graph, Node, NodeEvent, TurnContext, tool

PAID: list[int] = []
"""What the tool of this process has paid."""


@tool(approval=True)
async def pay_back(amount: int) -> str:
    """Pay something back."""
    PAID.append(amount)
    return f"paid {amount}"


async def _ask(turn: TurnContext) -> Sequence[NodeEvent]:
    return [*turn.request("pay_back", amount=5), turn.update(asked=turn.user_input)]


async def _settle(turn: TurnContext) -> Sequence[NodeEvent]:
    if turn.user_input == "stumble":
        raise ValueError("I stumble.")
    await turn.run_tools()
    return [turn.say("That is settled.")]


async def _close(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.run_tools()
    return [turn.say(f"That is closed by version {turn.agent.version or 'none'}.")]


def _till(node: Node, version: str = "") -> Agent:
    edges = {"ask": node.name, node.name: END}
    return Agent(Graph("till", "ask", [Node("ask", _ask), node], edges), tools=[pay_back], version=version)


before = _till(Node("settle", _settle))
"""Waits at `settle` for a person; fails there at `stumble`."""

renamed = _till(Node("close", _close))
"""Has `close` in place of `settle`, and does not say so."""

aliased = _till(Node("close", _close, aliases=("settle",)))
"""Says that `close` was `settle`."""

versioned = _till(Node("close", _close), version="2")
"""Has `close` in place of `settle`, in a version of its own."""

guarded = Agent(Graph("gate", "enter", [Node("enter", _close, approval=True)], {"enter": END}))
"""Waits before `enter` for a person."""

unguarded = Agent(Graph("gate", "pass", [Node("pass", _close)], {"pass": END}))
"""Has `pass` in place of `enter`, and does not say so."""

restarted = Agent(
    Graph(
        "till",
        "begin",
        [Node("begin", _ask), Node("close", _close)],
        {"begin": "close", "close": END},
    ),
    tools=[pay_back],
)
"""Has other names for both nodes of `before`."""


async def _inquire(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.say(await turn.ask_person("Go on?"))]


def _asker(name: str, *aliases: str) -> Agent:
    return Agent(Graph("asker", name, [Node(name, _inquire, aliases=aliases)], {name: END}))


asking, asking_elsewhere, asking_with_alias = _asker("ask"), _asker("inquire"), _asker("inquire", "ask")
"""An agent that asks a person; the same after its node was renamed, without an alias and with one."""
