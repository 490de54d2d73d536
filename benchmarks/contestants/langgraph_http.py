"""LangGraph as a service: FastAPI in uvicorn with uvloop and httptools, asked over HTTP."""

import uuid
from argparse import Namespace
from collections.abc import Sequence

import uvloop

from benchmarks.contestants.exchanges import said
from benchmarks.contestants.langgraph_graph import graphs
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.load import HOST, post
from benchmarks.side_by_side.serving import free_port, load_options, loaded, serving

APP = "benchmarks.contestants.langgraph_app:app"


async def main(arguments: Namespace) -> Figures:
    port = free_port()
    async with graphs(arguments.database):
        pass  # the tables are there before several processes want to make them
    options = ["--host", HOST, "--port", str(port), "--workers", str(arguments.processes)]
    options += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
    settings = {"DATABASE_URL": arguments.database, "MESSAGES": arguments.messages}
    async with serving("uvicorn", [APP, *options], port, settings) as service:
        return await loaded(arguments, service, _scripts, 200, _settle)


async def _scripts(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
    return [
        [post(f"/threads/{thread}/turns", {"user_input": said(at, turn)}) for turn in range(turns)]
        for at, thread in enumerate(uuid.uuid4() for _ in range(clients))
    ]


async def _settle(_turns: int) -> None:
    """Wait for nothing: what is answered is stored."""


if __name__ == "__main__":
    given = load_options(messages=str)
    say(uvloop.run(main(given)))
