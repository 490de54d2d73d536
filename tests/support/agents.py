"""Agents for tests over HTTP. Each is named in AGENTS as `tests.support.agents:<name>`."""

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from threadfold import (
    END,
    Agent,
    Branch,
    Graph,
    ItemContext,
    Json,
    Node,
    NodeEvent,
    RetryPolicy,
    Running,
    ToolContext,
    TurnContext,
    assistant,
    tool,
)

PAUSE = 0.05


async def _wait(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(PAUSE)
    return [turn.say(f"You said: {turn.user_input}")]


async def _say_more(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(PAUSE)
    return [turn.say("That is all.")]


slow = Agent(
    Graph("slow", "wait", [Node("wait", _wait), Node("say_more", _say_more)], {"wait": "say_more", "say_more": END})
)
"""Takes a tenth of a second for an answer, in two nodes."""


_let_go: set[str] = set()


def let_go(thread_id: str) -> None:
    """Let turns of `patient` in a thread of this process go on."""
    _let_go.add(thread_id)


async def _hold(turn: TurnContext) -> Sequence[NodeEvent]:
    while str(turn.thread_id) not in _let_go:
        await asyncio.sleep(0.01)
    return [turn.say(f"You said: {turn.user_input}")]


patient = Agent(
    Graph("patient", "hold", [Node("hold", _hold), Node("say_more", _say_more)], {"hold": "say_more", "say_more": END})
)
"""Answers as `slow` does, but not before `let_go`: what is to be seen of a running turn does not depend on time."""


async def _stay(turn: TurnContext) -> Sequence[NodeEvent]:
    await asyncio.sleep(600)
    return [turn.say("At last.")]


stuck = Agent(Graph("stuck", "stay", [Node("stay", _stay, timeout=900)], {"stay": END}))
"""Does not end by itself."""


@tool(approval=True)
async def refund(amount: int) -> str:
    """Pay something back."""
    return f"refunded {amount}"


@tool
async def transfer(amount: int, context: ToolContext) -> str:
    """Transfer an amount of money."""
    if amount > 100:
        context.require_approval(f"{amount} is much.")
    return f"transferred {amount}"


cashier = assistant("cashier", tools=[refund, transfer], slash_commands=True)
"""Needs a person for `/refund 5`, and for `/transfer 500`, which asks itself."""


@tool(idempotent=True)
async def echo(text: str = "", *, after: float = 0.0) -> str:
    """Say a text again, some seconds later."""
    await asyncio.sleep(after)
    return f"echo[{text}]"


desk = assistant("desk", tools=[echo, refund])
"""Has a tool that answers at once or later, and one that needs a person."""


@tool
async def whose(context: ToolContext[str]) -> str:
    """Say for whom this is."""
    return f"{context.deps}: {context.actor} asks for {context.subject}, {context.values}"


clerk = assistant("clerk", tools=[whose], slash_commands=True, deps="shop")
"""Says for whom it acts: `/whose`."""


class Return(BaseModel):
    """What is known about a return."""

    order_id: str = Field(min_length=1)
    amount: int = Field(default=0, ge=0)
    opened: date = date(2026, 11, 30)


async def _take(turn: TurnContext) -> Sequence[NodeEvent]:
    values: Return = turn.values
    return [turn.update(amount=int(turn.user_input)), turn.say(f"{values.order_id} of {values.opened:%Y}")]


returns = Agent(Graph("returns", "take", [Node("take", _take)], {"take": END}, values=Return))
"""Has typed values, and changes the amount to what the user says."""


async def _note(turn: TurnContext) -> Sequence[NodeEvent]:
    if "fail" in turn.user_input or ("stumble" in turn.user_input and turn.state.turn.attempt == 1):
        raise ValueError("I cannot write that down.")
    count = turn.state.thread.values.get("count", 0) + 1
    return [turn.update(count=count, last={"said": turn.user_input, "words": len(turn.user_input.split())}, mood=None)]


async def _length(item: ItemContext, word: Json) -> Json:
    if len(word) > 12:
        raise ValueError(f"{word} is too long.")
    return {"word": word, "length": len(word)}


async def _spell(turn: TurnContext) -> Sequence[NodeEvent]:
    done = await turn.map(turn.user_input.split()[:6], _length, retry=RetryPolicy(attempts=2, first_delay=0.01))
    return [turn.say(", ".join(f"{one['word']}: {one['length']}" for one in done))]


async def _sign(turn: TurnContext) -> Sequence[NodeEvent]:
    return [turn.update(signed=turn.user_input), turn.say("Signed.")]


def _how(state: Running) -> str:
    last = state.thread.values["last"]["said"]
    return "sign" if "sign" in last else "spell"


clumsy = Agent(
    Graph(
        "clumsy",
        "note",
        [
            Node("note", _note, retry=RetryPolicy(attempts=2, first_delay=0.01)),
            Node("spell", _spell),
            Node("sign", _sign, approval=True),
        ],
        {"note": Branch(_how, {"sign": "sign", "spell": "spell"}), "spell": END, "sign": END},
    )
)
"""Changes values, works on lists, and fails: for good at `fail`, once at `stumble`. Needs a person for `sign`."""


class Choice(BaseModel):
    """What a person answers."""

    approved: bool
    size: int = Field(default=1, ge=1, le=9)


async def _exchange(turn: TurnContext) -> Sequence[NodeEvent]:
    order = await turn.ask_customer("Which order?")
    choice = await turn.ask_person(f"Exchange {order}?", Choice)
    return [turn.say(f"{order} in {choice.size}" if choice.approved else f"not {order}")]


exchange = Agent(Graph("exchange", "ask", [Node("ask", _exchange)], {"ask": END}))
"""Asks the customer which order, and a person whether."""


class Claim(BaseModel):
    """What a customer wants back."""

    order: str
    amount: int = Field(ge=1)
    reason: Literal["broken", "late"]


async def _claim(turn: TurnContext) -> Sequence[NodeEvent]:
    reason = await turn.ask(turn.user_input, "Why is it sent back?", output=Literal["broken", "late"])
    return [turn.update(reason=reason), *await turn.generate()]


claims = Agent(Graph("claims", "claim", [Node("claim", _claim)], {"claim": END}), tools=[echo], output=Claim)
"""Asks for a reason, and answers with a claim."""


async def _consult(turn: TurnContext) -> Sequence[NodeEvent]:
    await turn.ask_person("Go on?")
    return []


async def _reply(turn: TurnContext) -> Sequence[NodeEvent]:
    return await turn.generate()


consulted = Agent(
    Graph(
        "consulted", "consult", [Node("consult", _consult), Node("reply", _reply)], {"consult": "reply", "reply": END}
    )
)
"""Asks a person before the model answers."""
