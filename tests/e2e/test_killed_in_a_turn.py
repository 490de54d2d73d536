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


TILL = """
import asyncio
import pathlib
from pydantic import BaseModel
from threadfold import ToolContext, assistant, tool

HERE = pathlib.Path({here!r})

class Order(BaseModel):
    limit: int = 100

@tool(idempotent=True)
async def pay(amount: int, context: ToolContext[pathlib.Path]) -> str:
    \"\"\"Pay.\"\"\"
    if amount > context.values.limit:
        context.require_approval(f"{{context.subject}} may have {{context.values.limit}}")
    started = context.deps / "started"
    if not started.exists():
        started.touch()
        await asyncio.sleep(60)
    with (context.deps / "paid").open("a") as paid:
        paid.write(f"{{amount}} to {{context.subject}} for {{context.actor}} by {{context.idempotency_key}}\\n")
    return f"paid {{amount}}"

agent = assistant("till", tools=[pay], slash_commands=True, deps=HERE, values=Order)
"""


async def test_a_call_that_a_person_granted_is_not_asked_about_again_after_two_kills(tmp_path: Path) -> None:
    (tmp_path / "till.py").write_text(TILL.format(here=str(tmp_path)))
    server = threadfold(tmp_path, AGENTS=str(tmp_path / "till.py"))
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def until(status: str) -> None:
            async with asyncio.timeout(120):
                while (await client.get(f"/v1/threads/{thread}")).json()["status"] != status:
                    await asyncio.sleep(0.1)

        opened = await client.post("/v1/threads", json={"graph": "till", "subject": "customer-17"})
        thread = opened.json()["thread_id"]
        message = {"user_input": '/pay {"amount": 500}'}
        await client.post(f"/v1/threads/{thread}/turns", json=message, headers={"X-Actor": "anna"})
        await until("waiting")
        await server.kill()
        await server.start()
        ((approval),) = (await client.get(f"/v1/threads/{thread}/approvals")).json()["items"]
        assert approval["reason"] == "customer-17 may have 100"
        path, grant = f"/v1/threads/{thread}/approvals/{approval['approval_id']}", {"hash": approval["hash"]}
        wrong = await client.post(path, json={**grant, "decision": "grant", "arguments": {"amount": "all"}})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "arguments.amount")
        await client.post(path, json={**grant, "decision": "grant", "arguments": {"amount": 400}})
        async with asyncio.timeout(120):
            while not (tmp_path / "started").exists():
                await asyncio.sleep(0.05)
        await server.kill()
        await server.start()
        await until("idle")
        events = (await client.get(f"/v1/threads/{thread}/events", params={"limit": 1000})).json()["items"]
    (paid,) = (tmp_path / "paid").read_text().splitlines()
    assert paid.startswith(f"400 to customer-17 for anna by {thread}:")
    kinds = [event["type"] for event in events]
    assert (kinds.count("ApprovalRequested"), kinds.count("ToolSucceeded"), kinds[-1]) == (1, 1, "TurnCompleted")
