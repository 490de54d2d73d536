"""LangGraph's part: the same graph, on a PostgreSQL checkpointer as its documentation builds one.

There are two ways to keep messages: `full`, as its documentation has them, stores all of them anew with each change;
`delta`, which is in beta, stores what is new, and all of them with each hundredth change.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.contestants.exchanges import exchange_of, said

POOL = 20
"""Connections, as many as Threadfold takes."""

TABLES = "^checkpoint"


SAVERS = 20


class State(TypedDict):
    """The conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


class DeltaState(TypedDict):
    """The conversation, kept as what is added to it."""

    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]


STATES = {"full": State, "delta": DeltaState}


async def route_intent(state: Any) -> dict[str, Any]:
    """Ask for a tool: a rule, no model."""
    exchange = exchange_of(_asked(state))
    call = {"id": str(uuid.uuid4()), "name": "desk", "args": {"call": exchange.tool, "arguments": exchange.arguments}}
    return {"messages": [AIMessage(content="", tool_calls=[call])]}


async def execute_tool(state: Any) -> dict[str, Any]:
    """Run it."""
    call = state["messages"][-1].tool_calls[0]
    return {"messages": [ToolMessage(content=exchange_of(_asked(state)).result, tool_call_id=call["id"], name="desk")]}


async def generate_response(state: Any) -> dict[str, Any]:
    """Answer as the recorded agent did, at once."""
    exchange = exchange_of(_asked(state))
    read, written = exchange.prompt_tokens, exchange.completion_tokens
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"messages": [AIMessage(content=exchange.answer, usage_metadata=usage)]}


async def finalize_turn(_: Any) -> dict[str, Any]:
    """End the turn."""
    return {}


def wants_tool(state: Any) -> str:
    """After `route_intent`: is there a call to run?"""
    return "execute_tool" if state["messages"][-1].tool_calls else "generate_response"


def build(saver: AsyncPostgresSaver, messages: str) -> Any:
    """Compile the graph."""
    graph = StateGraph(STATES[messages])
    for node in (route_intent, execute_tool, generate_response, finalize_turn):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "route_intent")
    graph.add_conditional_edges("route_intent", wants_tool, ["execute_tool", "generate_response"])
    graph.add_edge("execute_tool", "generate_response")
    graph.add_edge("generate_response", "finalize_turn")
    graph.add_edge("finalize_turn", END)
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def graphs(url: str, messages: str = "full", savers: int = SAVERS) -> AsyncIterator[Sequence[Any]]:
    """Open the pool, and make a graph for each of so many savers on it.

    A saver does one thing at a time, whatever the size of its pool: a lock of its own sees to that (issue 7259 of
    langchain-ai/langgraph). Several savers on one pool do not wait for each other, so threads are spread over them.
    """
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, min_size=4, max_size=POOL, kwargs=kwargs) as pool:
        made = [AsyncPostgresSaver(pool) for _ in range(savers)]
        await made[0].setup()
        yield [build(saver, messages) for saver in made]


def config(thread: object) -> dict[str, Any]:
    """Name a thread."""
    return {"configurable": {"thread_id": str(thread)}}


def messages_of(thread: int, turns: range) -> list[AnyMessage]:
    """Make the messages that these turns would leave."""
    made: list[AnyMessage] = []
    for turn in turns:
        question = HumanMessage(content=said(thread, turn), id=str(uuid.uuid4()))
        exchange, call_id = exchange_of(str(question.content)), str(uuid.uuid4())
        arguments = {"call": exchange.tool, "arguments": exchange.arguments}
        made += [
            question,
            AIMessage(
                content="",
                id=str(uuid.uuid4()),
                tool_calls=[{"id": call_id, "name": "desk", "args": arguments}],
            ),
            ToolMessage(content=exchange.result, id=str(uuid.uuid4()), tool_call_id=call_id, name="desk"),
            AIMessage(content=exchange.answer, id=str(uuid.uuid4())),
        ]
    return made


def _asked(state: Any) -> str:
    return next(str(message.content) for message in reversed(state["messages"]) if message.type == "human")
