"""The airline's desk, whose tools count what they do in a database of their own.

A write counts before it answers, as a booking system would have booked. `COUNTS` names that database.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import asyncpg
from msgspec.structs import replace

from domain.agents.agent import Agent
from domain.agents.tools import Tool, ToolContext
from domain.json import JsonObject
from examples.airline.agent import WRITES, airline
from tests.chaos.crashing import reached

COUNTS = "CHAOS_COUNTS"

TABLE = """
CREATE TABLE effects (
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    thread_id       uuid        NOT NULL,
    tool            text        NOT NULL,
    idempotency_key text        NOT NULL,
    write           boolean     NOT NULL
)
"""

APPROVED = frozenset({"cancel_reservation", "send_certificate"})
"""What a person has to agree to."""


def _counted(tool: Tool) -> Tool:
    async def run(arguments: JsonObject, context: ToolContext) -> Any:
        reached("tool started")
        connection = await asyncpg.connect(os.environ[COUNTS])
        try:
            await connection.execute(
                "INSERT INTO effects (thread_id, tool, idempotency_key, write) VALUES ($1, $2, $3, $4)",
                context.thread_id,
                tool.name,
                context.idempotency_key,
                tool.name in WRITES,
            )
        finally:
            await connection.close()
        answer = await tool.run(arguments, context)
        reached("tool done")
        return answer

    return replace(tool, run=run, if_unknown="ask_person", approval=tool.name in APPROVED)


@cache
def _tools() -> Sequence[Tool]:
    return [_counted(tool) for tool in airline.tools]


desk = Agent(airline.graph, airline.instructions, _tools())
