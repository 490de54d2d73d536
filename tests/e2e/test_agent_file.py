"""An agent that `AGENTS` names by its file is loaded by the parent's children and by isolated processes, too."""

import os
from pathlib import Path

import httpx

from infrastructure.settings import CHECKOUT
from tests.e2e.server_process import threadfold

AGENT = """
import os
import signal
import sys
from words import ANSWER
from domain.agents.agent import Agent
from domain.agents.graph import END, Graph, Node

async def answer(turn):
    if '--alone' not in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return [turn.say(ANSWER)]

agent = Agent(Graph("desk", "answer", [Node("answer", answer)], {"answer": END}))
"""


def relative_path(directory: Path) -> str:
    """Write an agent's file and a module that it imports; name the file as the servers' working directory sees it."""
    (directory / "words.py").write_text("ANSWER = 'I am alone.'\n")
    (directory / "desk.py").write_text(AGENT)
    return os.path.relpath(directory / "desk.py", CHECKOUT)


async def test_a_turn_that_kills_processes_ends_in_one_of_its_own(database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": database_url, "LEASE_SECONDS": "1", "MAX_CONNECTIONS": "5"}
    server = threadfold(tmp_path, "--workers", "1", AGENTS=relative_path(tmp_path), **settings)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        invoked = await client.post("/v1/agent/invoke", json={"user_input": "go", "graph": "desk"})
        assert invoked.is_success, invoked.text
        thread = invoked.json()["thread_id"]
        messages: list[str] = []
        while len(messages) < 2:
            try:
                await client.get(f"/v1/threads/{thread}/stream", params={"after": 0, "until_idle": True})
                items = (await client.get(f"/v1/threads/{thread}/messages")).json()["items"]
                messages = [item["content"] for item in items]
            except httpx.TransportError:  # the child was killed
                continue
    assert messages == ["go", "I am alone."]
