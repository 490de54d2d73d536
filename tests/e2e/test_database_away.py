"""While PostgreSQL is away, tools and items go on, and what they and models have answered is stored when it is back."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infrastructure.embedded.server import EmbeddedPostgres
from tests.e2e.server_process import ServerProcess, kill_postgres, threadfold
from tests.fakes.openai_server import OpenAIServer, Reply, Request, stream

MODULE = """
import asyncio, pathlib
from domain.agents.agent import Agent
from domain.agents.graph import END, Graph, Node, RetryPolicy
from domain.agents.tools import tool

HERE = pathlib.Path({here!r})

def note(text):
    with (HERE / "log").open("a") as out:
        out.write(text + "\\n")

async def until(name):
    while not (HERE / name).exists():
        await asyncio.sleep(0.05)

@tool(timeout=120)
async def pay(name: str, until_there: str) -> str:
    "Pay."
    note(f"{{name}} begins")
    try:
        await until(until_there)
    except asyncio.CancelledError:
        note(f"{{name}} is cancelled")
        raise
    note(f"{{name}} is paid")
    return f"paid {{name}}"

async def ask(turn):
    return [*turn.request("pay", name="ada", until_there="away"),
            turn.request("pay", name="bob", until_there="back")[1]]

async def run(turn):
    await turn.run_tools()
    return [turn.say("all paid")]

async def each(item, value):
    note(f"{{value['name']}} begins")
    said = await item.ask(value["name"])
    await until(value["until"])
    note(f"{{value['name']}} is done")
    return said

async def work(turn):
    await turn.map([{{"name": "ada", "until": "away"}}, {{"name": "bob", "until": "back"}}], each)
    return [turn.say("all done")]

async def think(turn):
    note("thinks")
    facts = await turn.generate()
    note("has thought")
    await until("away")
    again = await turn.generate()
    note("has thought again")
    return [*facts[:2], *again]

def graph(*nodes):
    names = [node.name for node in nodes]
    return Graph(names[-1], names[0], nodes, dict(zip(names, [*names[1:], END])))

payer = Agent(graph(Node("ask", ask), Node("payer", run, timeout=8)), tools=[pay])
mapper = Agent(graph(Node("mapper", work, timeout=8)))
thinker = Agent(graph(Node("thinker", think, timeout=8)))
"""

AWAY = 10.0
"""Seconds that PostgreSQL is away: longer than the nodes' time."""


class Database:
    """A PostgreSQL of the test's own that goes away and comes back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = EmbeddedPostgres.start(directory / "postgres")

    def leave(self, how: str) -> None:
        if how == "killed":
            kill_postgres(self.directory)
        else:
            for pid in self._processes():
                os.kill(pid, signal.SIGSTOP)

    def come_back(self, how: str) -> None:
        if how == "killed":
            self.server = EmbeddedPostgres.start(self.directory / "postgres")
        else:
            for pid in self._processes():
                os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        pid_file = self.directory / "postgres" / "cluster" / "postmaster.pid"
        postmaster = int(pid_file.read_text().split(maxsplit=1)[0])
        children = Path("/proc", str(postmaster), "task", str(postmaster), "children").read_text().split()
        return [postmaster, *map(int, children)]


@pytest.fixture
async def model() -> AsyncIterator[OpenAIServer]:
    def answer(_: Request) -> Reply:
        return stream("yes")

    async with OpenAIServer(otherwise=answer) as server:
        yield server


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)  # PostgreSQL runs as another user where tests run as root
    one = Database(tmp_path)
    yield one
    one.server.stop()


def serve(tmp_path: Path, database: Database, model: OpenAIServer) -> ServerProcess:
    (tmp_path / "patient.py").write_text(MODULE.format(here=str(tmp_path)))
    return threadfold(
        tmp_path,
        DATABASE_URL=database.server.url(),
        AGENTS="patient:payer,patient:mapper,patient:thinker",
        PYTHONPATH=str(tmp_path),
        LLM_ENDPOINT=model.endpoint,
        LLM_MODEL="any",
    )


def log(tmp_path: Path) -> Counter[str]:
    path = tmp_path / "log"
    return Counter(path.read_text().splitlines() if path.exists() else [])


async def until(tmp_path: Path, *lines: str) -> None:
    async with asyncio.timeout(60):
        while not all(log(tmp_path)[line] for line in lines):
            await asyncio.sleep(0.05)


async def events(client: httpx.AsyncClient, thread: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(90):
        while (answer := await client.get(f"/v1/threads/{thread}")).json().get("status") != "idle":
            await asyncio.sleep(0.2)
    assert answer.is_success
    items: list[dict[str, Any]] = (await client.get(f"/v1/threads/{thread}/events", params={"limit": 200})).json()[
        "items"
    ]
    return items


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_outcomes_are_kept_until_they_are_stored(
    tmp_path: Path, database: Database, model: OpenAIServer, how: str
) -> None:
    server = serve(tmp_path, database, model)
    async with server, httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        threads = {}
        for graph in ("payer", "mapper", "thinker"):
            thread = threads[graph] = str(uuid4())
            await client.post("/v1/threads", json={"thread_id": thread, "graph": graph})
            await client.post(f"/v1/threads/{thread}/turns", json={"user_input": "go"})
            begun = ["has thought"] if graph == "thinker" else ["ada begins", "bob begins"]
            await until(tmp_path, *begun)
        async with asyncio.timeout(60):
            while len(model.requests) < 3:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(database.leave, how)
        (tmp_path / "away").touch()
        await until(tmp_path, "ada is paid", "ada is done")
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(database.come_back, how)
        (tmp_path / "back").touch()
        told = {graph: await events(client, thread) for graph, thread in threads.items()}
    done = log(tmp_path)
    kinds = {graph: Counter(event["type"] for event in found) for graph, found in told.items()}
    assert (done["ada is paid"], done["bob is paid"], done["ada begins"], done["bob begins"]) == (1, 1, 2, 2), done
    assert not any("cancelled" in line for line in done)
    assert kinds["payer"]["ToolSucceeded"] == 2, told["payer"]
    assert kinds["mapper"]["ItemCompleted"] == 2, told["mapper"]
    assert (kinds["thinker"]["ModelCalled"], done["thinks"]) == (2, 1), told["thinker"]
    assert sum(kind["ModelCalled"] for kind in kinds.values()) == len(model.requests) == 4
    for kind in kinds.values():
        assert (kind["TurnCompleted"], kind["NodeFailed"], kind["TurnResumed"]) == (1, 0, 0)
