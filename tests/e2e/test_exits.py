"""A server lives on whatever its agents' code does: it is a real process, and the code is a module of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.server_process import ServerProcess, threadfold

TOOLS = {
    "sys_exit": "sys.exit(2)",
    "raised": "raise SystemExit('enough')",
    "parsed": "argparse.ArgumentParser(prog='x').parse_args(['--wrong'])",
    "clicked": "click.command()(lambda: None).main(['--help'])",
    "threaded": "await asyncio.to_thread(sys.exit, 2)",
    "pooled": "await asyncio.get_running_loop().run_in_executor(None, sys.exit, 2)",
    "interrupted": "raise KeyboardInterrupt",
    "executed": "exec('exit()')",
    "closed": "raise GeneratorExit",
    "grouped": "async with asyncio.TaskGroup() as group: group.create_task(leave())",
    "gathered": "await asyncio.gather(leave(), leave(), asyncio.sleep(1))",
    "nested": "raise BaseExceptionGroup('all', [ValueError(1), BaseExceptionGroup('inner', [KeyboardInterrupt()])])",
    "forgotten": "asyncio.create_task(leave()); await asyncio.sleep(0.01); raise ValueError('after that')",
    "cancelled": "raise asyncio.CancelledError",
}
"""Bodies of tools, by their names."""

NODES = {
    "node_exit": "sys.exit(2)",
    "node_group": "async with asyncio.TaskGroup() as group: group.create_task(leave())",
    "node_item": "await turn.map([1, 2], each)",
    "node_choose": "return [turn.say('choose')]",
}

HEAD = """
import argparse, asyncio, sys
import click
from domain.agents.agent import Agent
from domain.agents.assistant import assistant
from domain.agents.graph import END, Branch, Graph, Node
from domain.agents.tools import tool

async def leave():
    sys.exit(3)

async def each(item, value):
    if value == 2:
        await asyncio.create_task(leave())
    return value

def choose(state):
    sys.exit(4)

@tool
def plain() -> str:
    "Leave."
    sys.exit(5)

@tool(approval=choose)
async def judged() -> str:
    "Leave while it is judged."
    return "never"

async def deaf(turn):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def one(name, run, **more):
    return Agent(Graph(name, "only", [Node("only", run, **more)], {"only": END}))

async def speak(turn):
    await asyncio.sleep(0.05)
    return [turn.say("fine")]

innocent = one("innocent", speak)
deaf_one = one("deaf", deaf, timeout=0.2)
deaf_for_ever = one("deaf_for_ever", deaf, timeout=3600)
"""


def module() -> str:
    tools = "".join(f'\n@tool\nasync def {name}() -> str:\n    "Leave."\n    {body}\n' for name, body in TOOLS.items())
    nodes = "".join(
        f"\nasync def {name}(turn):\n    {body}\n{name}_one = one({name!r}, {name})\n" for name, body in NODES.items()
    )
    choosing = 'Graph("node_choose", "only", [Node("only", node_choose)], {"only": Branch(choose, {"on": END})})'
    names = ", ".join([*TOOLS, "plain", "judged"])
    desk = f'desk = assistant("desk", tools=[{names}], slash_commands=True)\n'
    return f"{HEAD}{tools}{nodes}\nnode_choose_one = Agent({choosing})\n{desk}"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "leaving.py").write_text(module())
    agents = ["desk", "innocent", "deaf_one", "deaf_for_ever", *[f"{name}_one" for name in NODES]]
    process = threadfold(
        tmp_path,
        DATABASE_URL="memory://",
        AGENTS=",".join(f"leaving:{name}" for name in agents),
        PYTHONPATH=str(tmp_path),
    )
    async with process:
        yield process


async def say(client: httpx.AsyncClient, graph: str, text: str = "go") -> dict[str, Any]:
    thread = str(uuid4())
    opened = await client.post("/v1/threads", json={"thread_id": thread, "graph": graph})
    assert opened.is_success, opened.text
    answer = await client.post(f"/v1/threads/{thread}/turns", params={"wait": "true"}, json={"user_input": text})
    assert answer.is_success, answer.text
    return {"thread_id": thread, **answer.json()}


async def test_a_server_serves_on_whatever_tools_nodes_and_items_do(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for name in [*TOOLS, "plain"]:
            guilty, innocent = await asyncio.gather(say(client, "desk", f"/{name}"), say(client, "innocent"))
            assert innocent["answer"] == "fine", name
            assert guilty["status"] == "completed", (name, guilty)
            (told,) = [message for message in guilty["messages"] if message["role"] == "tool"]
            assert told["outcome"] == "failed", name
        for name in NODES:
            guilty, innocent = await asyncio.gather(say(client, name), say(client, "innocent"))
            assert innocent["answer"] == "fine", name
            assert (guilty["status"], guilty["reason"]) == ("failed", "node_failed"), name
            assert "the code tried to end the process" in guilty["detail"]
        assert (await client.get("/health/live")).is_success
    started = time.monotonic()
    await server.stop()
    assert time.monotonic() - started < 20
    assert "Traceback" not in server.said().partition("the code tried to end the process")[0]


async def test_code_that_ignores_being_cancelled_holds_up_neither_its_turn_nor_the_servers_end(
    server: ServerProcess,
) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        failed, innocent = await asyncio.gather(say(client, "deaf"), say(client, "innocent"))
        assert innocent["answer"] == "fine"
        assert (failed["status"], failed["detail"]) == ("failed", "only: NodeTimeout: did not end within 0.2 s")
        thread = str(uuid4())
        await client.post("/v1/threads", json={"thread_id": thread, "graph": "deaf_for_ever"})
        await client.post(f"/v1/threads/{thread}/turns", json={"user_input": "go"})
    await server.stop()  # fails if that takes longer than GRACE
    assert server.said().count("It is abandoned, and has no effect on the turn") == 2
