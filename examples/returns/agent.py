"""The returns desk of a shop: `AGENTS=examples.returns.agent:desk`. README.md explains it."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from examples.returns.shop import SHOP, Order, Shop
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


class Case(BaseModel):
    """What the desk knows: the values of a thread."""

    intent: Literal["return", "other"] = "other"
    order: str = ""


def order_of(shop: Shop, customer: str, order: str) -> Order:
    """Return an order of the customer that a thread is about."""
    if (found := shop.find(customer, order)) is None:
        raise Retry(f"The customer has no order {order}.")
    return found


@tool(idempotent=True)
async def find_order(order: str, context: ToolContext[Shop]) -> Order:
    """Find an order, such as A-17."""
    return order_of(context.deps, context.subject, order)


@tool(idempotent=True)
async def shipping_label(order: str, context: ToolContext[Shop]) -> str:
    """Print a label for the parcel of a return."""
    return context.deps.label(order_of(context.deps, context.subject, order).id, context.idempotency_key)


@tool(idempotent=True, approval=lambda arguments: arguments["dollars"] > APPROVED_FROM)
async def refund(order: str, dollars: int, context: ToolContext[Shop]) -> str:
    """Pay money back. A person approves a large refund."""
    if dollars > sum(order_of(context.deps, context.subject, order).items.values()):
        raise ToolError("This is more than was paid.")
    return context.deps.refund(order, dollars, context.idempotency_key)


@tool
async def send_mail(text: str, context: ToolContext[Shop]) -> str:
    """Send a mail to the customer."""
    return context.deps.mail(context.subject, text)


async def classify(turn: TurnContext) -> Sequence[NodeEvent]:
    """Ask the model what the message is about."""
    prompt = f"Does the customer want to return something?\n{turn.user_input}"
    return [turn.update(intent=await turn.ask(prompt, output=Literal["return", "other"]))]


async def check(turn: TurnContext[Case]) -> Sequence[NodeEvent]:
    """Find out which order it is, ask the model about each item, and request the refund of those taken back."""
    find, said = turn.agent.deps.find, turn.user_input
    while not (order := find(turn.subject, said) or find(turn.subject, turn.values.order)):
        said = await turn.ask_customer("Which order is it about?")
    items = order.items

    async def judge(item: ItemContext, name: Json) -> Json:
        verdict = await item.ask(f"May we take back the {name}?\n{turn.user_input}", output=Verdict)
        return items[name] if verdict.accepted else 0

    return turn.request("refund", order=order.id, dollars=sum(await turn.map(list(items), judge)))


async def settle(turn: TurnContext) -> Sequence[NodeEvent]:
    """Pay, once a person has approved it if it is much, and request the mail that says so."""
    (paid,) = await turn.run_tools()
    return [turn.update(order=paid.arguments["order"]), *turn.request("send_mail", text=f"Your return: {paid.content}")]


async def confirm(turn: TurnContext) -> Sequence[NodeEvent]:
    """Send the mail, and tell the customer what happened. After a crash that may be unknown, which the text says."""
    (mail,) = await turn.run_tools()
    return [turn.say(f"{mail.arguments['text']}. The mail about it: {mail.content}")]


async def answer(turn: TurnContext) -> Sequence[NodeEvent]:
    """Run what the model called, and let it answer, or call a tool that does no harm."""
    await turn.run_tools()
    return await turn.generate(tools=["find_order", "shipping_label"])


take_back = Graph(
    "take_back",
    "check",
    [Node("check", check), Node("settle", settle, aliases=("pay",)), Node("confirm", confirm)],
    {"check": "settle", "settle": "confirm", "confirm": END},
)
desk = Agent(
    Graph(
        "returns",
        "classify",
        [Node("classify", classify), Subgraph("take_back", take_back), Node("answer", answer)],
        {
            "classify": Branch(lambda state: state.thread.values["intent"], {"return": "take_back", "other": "answer"}),
            "take_back": END,
            "answer": Branch(lambda state: "again" if state.turn.calls else "done", {"again": "answer", "done": END}),
        },
        values=Case,
    ),
    instructions=lambda state: f"You work at the returns desk. The customer is {state.thread.subject}.",
    tools=[find_order, shipping_label, refund, send_mail],
    deps=SHOP,
    version="2",
)
