"""A server that is killed in the middle of a turn goes on with it at its next start, where it was."""

import asyncio
from pathlib import Path

import httpx

from tests.e2e.server_process import threadfold

AGENT = """
import asyncio
import pathlib
from domain.agents.agent import Agent
from domain.agents.graph import END, Graph, Node

MARK = pathlib.Path({mark!r})

async def first(turn):
    return [turn.say("one")]

async def second(turn):
    if not MARK.exists():
        MARK.touch()
        await asyncio.sleep(60)
    return [turn.say("two")]

NODES = [Node("first", first), Node("second", second)]
agent = Agent(Graph("slow", "first", NODES, {{"first": "second", "second": END}}))
"""


async def test_a_killed_turn_goes_on_at_its_node_right_after_the_restart(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "slow_agent.py").write_text(AGENT.format(mark=str(mark)))
    server = threadfold(tmp_path, AGENTS="slow_agent:agent", PYTHONPATH=str(tmp_path))
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        invoked = await client.post("/v1/agent/invoke", json={"user_input": "go", "graph": "slow"})
        thread = invoked.json()["thread_id"]
        while not mark.exists():
            await asyncio.sleep(0.05)
        await server.kill()
        await server.start()
        async with asyncio.timeout(60):
            while (await client.get(f"/v1/threads/{thread}")).json()["status"] == "running":
                await asyncio.sleep(0.1)
        messages = (await client.get(f"/v1/threads/{thread}/messages")).json()["items"]
        events = (await client.get(f"/v1/threads/{thread}/events")).json()["items"]
    assert [message["content"] for message in messages] == ["go", "one", "two"]
    nodes = [event["data"]["node"] for event in events if event["type"] == "NodeCompleted"]
    assert nodes == ["first", "second"]
