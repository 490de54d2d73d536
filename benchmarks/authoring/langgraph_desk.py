"""The returns desk with LangGraph: a `StateGraph` with a subgraph, `Send` and `interrupt`."""

import operator
from typing import Annotated, Any, Literal

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import RetryPolicy, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from examples.returns.shop import SHOP, Order

APPROVED_FROM = 100
INSTRUCTIONS = "You work at the returns desk. The customer is {customer}."


class Intent(BaseModel):
    """What a message is about."""

    intent: Literal["return", "other"]


class Verdict(BaseModel):
    """Whether an item is taken back."""

    accepted: bool
    reason: str


class State(TypedDict):
    """The conversation."""

    messages: Annotated[list[AnyMessage], add_messages]
    customer: str
    intent: str


class Return(TypedDict):
    """A return, while it is worked on."""

    messages: Annotated[list[AnyMessage], add_messages]
    customer: str
    order: str
    dollars: Annotated[list[int], operator.add]
    paid: str


class Item(TypedDict):
    """An item to judge."""

    name: str
    dollars: int
    said: str


model = ChatOpenAI(model="test")


def order_of(customer: str, order: str) -> Order:
    """Return an order of this customer."""
    if (found := SHOP.find(customer, order)) is None:
        raise ValueError(f"{customer} has no order {order}.")
    return found


@tool
def find_order(order: str, state: Annotated[State, InjectedState]) -> Order:
    """Find an order, such as A-17."""
    return order_of(state["customer"], order)


@tool
def shipping_label(order: str, state: Annotated[State, InjectedState], config: RunnableConfig) -> str:
    """Print a label for the parcel of a return."""
    return SHOP.label(order_of(state["customer"], order).id, f"{config['configurable']['thread_id']}:label:{order}")


def refund(customer: str, order: str, dollars: int, key: str) -> str:
    """Pay money back. A person approves a large refund."""
    if dollars > sum(order_of(customer, order).items.values()):
        raise ValueError("This is more than was paid.")
    if dollars > APPROVED_FROM and not interrupt({"refund": order, "dollars": dollars}):
        return "A person refused this."
    return SHOP.refund(order, dollars, key)


def classify(state: State) -> dict[str, Any]:
    """Ask the model what the message is about."""
    prompt = f"Does the customer want to return something?\n{state['messages'][-1].text}"
    return {"intent": model.with_structured_output(Intent).invoke(prompt).intent}


def which_order(state: Return) -> dict[str, Any]:
    """Find the order in the message, or ask for it until the customer names one."""
    said = state["messages"][-1].text
    while not (order := SHOP.find(state["customer"], said)):
        said = interrupt("Which order is it about?")
    return {"order": order.id}


def each_item(state: Return) -> list[Send]:
    """After `which_order`: judge each item."""
    said, order = state["messages"][-1].text, order_of(state["customer"], state["order"])
    return [Send("judge", {"name": name, "dollars": dollars, "said": said}) for name, dollars in order.items.items()]


def judge(item: Item) -> dict[str, Any]:
    """Ask the model about an item."""
    prompt = f"May we take back the {item['name']}?\n{item['said']}"
    verdict = model.with_structured_output(Verdict).invoke(prompt)
    return {"dollars": [item["dollars"] if verdict.accepted else 0]}


def settle(state: Return, config: RunnableConfig) -> dict[str, Any]:
    """Pay, once a person has approved it if it is much."""
    key = f"{config['configurable']['thread_id']}:refund:{state['order']}"
    return {"paid": refund(state["customer"], state["order"], sum(state["dollars"]), key)}


def confirm(state: Return) -> dict[str, Any]:
    """Send the mail, and tell the customer what happened."""
    mail = SHOP.mail(state["customer"], f"Your return: {state['paid']}")
    return {"messages": [AIMessage(f"Your return: {state['paid']}. The mail about it: {mail}")]}


def answer(state: State) -> dict[str, Any]:
    """Let the model answer, or call a tool that does no harm."""
    system = ("system", INSTRUCTIONS.format(customer=state["customer"]))
    return {"messages": [model.bind_tools([find_order, shipping_label]).invoke([system, *state["messages"]])]}


take_back = StateGraph(Return)
take_back.add_node("which_order", which_order)
take_back.add_node("judge", judge, retry_policy=RetryPolicy(max_attempts=3))
take_back.add_node("settle", settle)
take_back.add_node("confirm", confirm)
take_back.add_edge(START, "which_order")
take_back.add_conditional_edges("which_order", each_item, ["judge"])
take_back.add_edge("judge", "settle")
take_back.add_edge("settle", "confirm")
take_back.add_edge("confirm", END)


def desk(saver: BaseCheckpointSaver[Any]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Compile the desk with a checkpointer."""
    graph = StateGraph(State)
    graph.add_node("classify", classify, retry_policy=RetryPolicy(max_attempts=3))
    graph.add_node("take_back", take_back.compile())
    graph.add_node("answer", answer, retry_policy=RetryPolicy(max_attempts=3))
    graph.add_node("tools", ToolNode([find_order, shipping_label]))
    graph.add_edge(START, "classify")
    graph.add_conditional_edges("classify", lambda s: s["intent"], {"return": "take_back", "other": "answer"})
    graph.add_edge("take_back", END)
    graph.add_conditional_edges("answer", tools_condition)
    graph.add_edge("tools", "answer")
    return graph.compile(saver)
