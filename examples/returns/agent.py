"""The returns desk of a shop: `AGENTS=examples.returns.agent:desk`. README.md explains it."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from examples.returns.shop import SHOP, Order
from threadfold import (
    END,
    Agent,
    Branch,
    Graph,
    ItemContext,
    Json,
    Node,
    NodeEvent,
    Retry,
    Subgraph,
    ToolContext,
    ToolError,
    TurnContext,
    tool,
)

APPROVED_FROM = 100
"""Dollars: a person approves more than that."""


class Verdict(BaseModel):
    """Whether an item is taken back."""

    accepted: bool
    reason: str


def order_of(customer: str, order: str) -> Order:
    """Return an order of this customer."""
    if (found := SHOP.find(order)) is None or found.customer != customer:
        raise ToolError(f"{customer} has no order {order}.")
    return found


@tool(idempotent=True)
async def find_order(customer: str, order: str) -> Order:
    """Find an order, such as A-17."""
    return order_of(customer, order)


@tool(idempotent=True)
async def shipping_label(customer: str, order: str, context: ToolContext) -> str:
    """Print a label for the parcel of a return."""
    return SHOP.label(order_of(customer, order).id, context.idempotency_key)


@tool(idempotent=True, approval=lambda arguments: arguments["dollars"] > APPROVED_FROM)
async def refund(customer: str, order: str, dollars: int, context: ToolContext) -> str:
    """Pay money back. A person approves a large refund."""
    if dollars > sum(order_of(customer, order).items.values()):
        raise ToolError("This is more than was paid.")
    return SHOP.refund(order, dollars, context.idempotency_key)


@tool
async def send_mail(customer: str, text: str) -> str:
    """Send a mail to the customer."""
    return SHOP.mail(customer, text)


async def classify(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask the model what the message is about."""
    prompt = f"Does the customer want to return something?\n{turn.user_input}"
    return [turn.update(intent=await turn.ask(prompt, output=Literal["return", "other"]))]


async def which_order(turn: TurnContext) -> Sequence[NodeEvent]:
    """Find the order in the message, or ask for it until the customer names one."""
    said = turn.user_input
    while not (named := re.search(r"[A-Z]-\d+", said)):
        said = await turn.ask_customer("Which order is it about?")
    return [turn.update(order=named[0])]


async def check(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask the model about each item, and request the refund of those that are taken back."""
    customer, order = (turn.state.thread.values[name] for name in ("customer", "order"))
    items = order_of(customer, order).items

    async def judge(item: ItemContext, name: Json) -> Json:
        verdict = await item.ask(f"May we take back the {name}?\n{turn.user_input}", output=Verdict)
        return items[name] if verdict.accepted else 0

    dollars = sum(await turn.map(list(items), judge))
    return turn.request("refund", customer=customer, order=order, dollars=dollars)


async def settle(turn: TurnContext) -> Sequence[NodeEvent]:
    """Pay, once a person has approved it if it is much, and request the mail that says so."""
    await turn.run_tools()
    paid = f"Your return: {turn.state.thread.window[-1].content}"
    return [
        turn.update(paid=paid),
        *turn.request("send_mail", customer=turn.state.thread.values["customer"], text=paid),
    ]


async def confirm(turn: TurnContext) -> Sequence[NodeEvent]:
    """Send the mail, and tell the customer what happened."""
    await turn.run_tools()
    mail = turn.state.thread.window[-1].content
    return [turn.say(f"{turn.state.thread.values['paid']}. The mail about it: {mail}")]


async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
    """Run what the model called, and let it answer, or call a tool that does no harm."""
    await turn.run_tools()
    return await turn.generate(tools=["find_order", "shipping_label"])


take_back = Graph(
    "take_back",
    "which_order",
    [Node("which_order", which_order), Node("check", check), Node("settle", settle), Node("confirm", confirm)],
    {"which_order": "check", "check": "settle", "settle": "confirm", "confirm": END},
)
desk = Agent(
    Graph(
        "returns",
        "classify",
        [Node("classify", classify), Subgraph("take_back", take_back), Node("answer", answer, retry=Retry(attempts=3))],
        {
            "classify": Branch(lambda state: state.thread.values["intent"], {"return": "take_back", "other": "answer"}),
            "take_back": END,
            "answer": Branch(lambda state: "again" if state.turn.calls else "done", {"again": "answer", "done": END}),
        },
    ),
    instructions=lambda state: f"You work at the returns desk. The customer is {state.thread.values['customer']}.",
    tools=[find_order, shipping_label, refund, send_mail],
)
