"""A turn whose outcome cannot be stored for a while keeps it: nothing is run, or paid for, a second time."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from domain.agents.agent import Agent, TurnContext
from domain.agents.graph import Graph, Node
from domain.thread.events import END, NodeEvent
from infrastructure.postgres import retry
from tests.integration.test_unavailable_store import over, raising
from tests.support.http import running_api

RUNS: list[str] = []


async def _work(turn: TurnContext) -> Sequence[NodeEvent]:
    RUNS.append("work")
    return [turn.say("Done.")]


WORKING = Agent(Graph("working", start="work", nodes=[Node("work", _work)], edges={"work": END}))


@pytest.mark.parametrize("state", ["53100", "57014", "42501", "XX000", "P0001"])
async def test_an_outcome_that_cannot_be_stored_is_kept_until_it_can(
    database_url: str, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(retry, "RETRY_PAUSES_S", (0.01,))
    RUNS.clear()
    agents = (f"{__name__}:WORKING",)
    async with running_api(database_url=database_url, agents=agents) as api:
        thread = await api.opened(graph="working")
        await raising(owner, state, "WHEN (NEW.type = 'NodeCompleted')")
        turn = asyncio.create_task(api.turn(thread, "hello"))
        async with asyncio.timeout(30):
            while not RUNS:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # some attempts to store it fail meanwhile
        await over(owner)
        answer = (await turn).json()
        assert answer["answer"] == "Done."
        assert RUNS == ["work"]
        types = [event["type"] for event in (await api.get(f"/v1/threads/{thread}/events")).json()["items"]]
        assert types.count("NodeCompleted") == 1
        assert "NodeFailed" not in types
