"""The returns desk with pydantic-ai, made durable by DBOS: a workflow for each conversation, which ends with it."""

from collections.abc import AsyncIterable
from typing import Literal

from dbos import DBOS
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    AgentStreamEvent,
    ModelMessage,
    ModelRetry,
    NativeOutput,
    PartDeltaEvent,
    RunContext,
    TextPartDelta,
    UsageLimits,
)
from pydantic_ai.durable_exec.dbos import DBOSDurability

from examples.returns.shop import SHOP, Order

APPROVED_FROM = 100
MODEL = "openai-chat:test"
YEAR_S = 366 * 86_400
BUDGET = UsageLimits(total_tokens_limit=20_000)
"""Of a run of an agent; a turn is several runs, in workflows of their own."""


class Verdict(BaseModel):
    """Whether an item is taken back."""

    accepted: bool
    reason: str


async def show(_: RunContext[str], events: AsyncIterable[AgentStreamEvent]) -> None:
    """Pass the text that the model is writing on to the customer."""
    async for event in events:
        if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            await DBOS.write_stream_async("deltas", event.delta.content_delta)


intent = NativeOutput(Literal["return", "other"])
classifier = Agent(MODEL, name="classifier", output_type=intent, capabilities=[DBOSDurability()])
judge = Agent(MODEL, name="judge", output_type=NativeOutput(Verdict), capabilities=[DBOSDurability()])
helper = Agent(MODEL, name="helper", deps_type=str, capabilities=[DBOSDurability(event_stream_handler=show)])


@helper.instructions
def instructions(context: RunContext[str]) -> str:
    """Say who the customer is."""
    return f"You work at the returns desk. The customer is {context.deps}."


def order_of(customer: str, order: str) -> Order:
    """Return an order of this customer."""
    if (found := SHOP.find(customer, order)) is None:
        raise ModelRetry(f"{customer} has no order {order}.")
    return found


@helper.tool
@DBOS.step()
async def find_order(context: RunContext[str], order: str) -> Order:
    """Find an order, such as A-17."""
    return order_of(context.deps, order)


@helper.tool
@DBOS.step()
async def shipping_label(context: RunContext[str], order: str) -> str:
    """Print a label for the parcel of a return."""
    return SHOP.label(order_of(context.deps, order).id, f"{DBOS.workflow_id}:label:{order}")


@DBOS.step()
async def refund(customer: str, order: str, dollars: int) -> str:
    """Pay money back."""
    if dollars > sum(order_of(customer, order).items.values()):
        raise ValueError("This is more than was paid.")
    return SHOP.refund(order, dollars, f"{DBOS.workflow_id}:refund:{order}")


@DBOS.step()
async def send_mail(customer: str, text: str) -> str:
    """Send a mail to the customer."""
    return SHOP.mail(customer, text)


@DBOS.workflow()
async def judge_item(name: str, said: str) -> bool:
    """Ask the model about an item."""
    return (await judge.run(f"May we take back the {name}?\n{said}", usage_limits=BUDGET)).output.accepted


async def take_back(customer: str, said: str) -> str:
    """Ask which order it is if need be, judge each item, pay, and send a mail."""
    text = said
    while not (order := SHOP.find(customer, text)):
        await DBOS.write_stream_async("said", "Which order is it about?")
        text = await DBOS.recv_async("customer", YEAR_S)
    items = order.items
    judged = [await DBOS.start_workflow_async(judge_item, name, said) for name in items]
    accepted = [await handle.get_result() for handle in judged]
    dollars = sum(price for price, taken in zip(items.values(), accepted, strict=True) if taken)
    granted = True
    if dollars > APPROVED_FROM:
        await DBOS.set_event_async("approval", {"refund": order.id, "dollars": dollars})
        granted = await DBOS.recv_async("approval", YEAR_S)
        await DBOS.set_event_async("approval", None)
    paid = await refund(customer, order.id, dollars) if granted else "A person refused this."
    mail = await send_mail(customer, f"Your return: {paid}")
    return f"Your return: {paid}. The mail about it: {mail}"


@DBOS.workflow()
async def desk(customer: str) -> None:
    """Talk to a customer, until no message has come for a year."""
    history: list[ModelMessage] = []
    while said := await DBOS.recv_async("customer", YEAR_S):
        prompt = f"Does the customer want to return something?\n{said}"
        if (await classifier.run(prompt, usage_limits=BUDGET)).output == "return":
            answer = await take_back(customer, said)
        else:
            run = await helper.run(said, deps=customer, message_history=history, usage_limits=BUDGET)
            answer, history = run.output, run.all_messages()
        await DBOS.write_stream_async("said", answer)
