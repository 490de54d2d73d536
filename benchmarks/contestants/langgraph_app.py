"""LangGraph as a service: FastAPI, with the pool and the graphs in its lifespan.

DATABASE_URL, MESSAGES and SAVERS say how.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from fastapi import FastAPI, Request
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from benchmarks.contestants.langgraph_graph import config, graphs


class Said(BaseModel):
    """What a user says."""

    user_input: str


class Answer(BaseModel):
    """What the agent answers."""

    thread_id: UUID
    answer: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the pool as long as the service runs."""
    async with graphs(os.environ["DATABASE_URL"], os.environ["MESSAGES"], int(os.environ["SAVERS"])) as made:
        app.state.graphs = made
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/threads/{thread_id}/turns")
async def take_turn(thread_id: UUID, said: Said, request: Request) -> Answer:
    """Take a turn, and answer when it is stored."""
    made = request.app.state.graphs
    graph = made[thread_id.int % len(made)]
    message = HumanMessage(content=said.user_input)
    state = await graph.ainvoke({"messages": [message]}, config(thread_id), durability="sync")
    return Answer(thread_id=thread_id, answer=state["messages"][-1].content)
