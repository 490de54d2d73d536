"""LangGraph as a service: FastAPI in uvicorn with uvloop and httptools, asked over HTTP.

Conversations have `--age` turns before the first that is measured, brought in by one checkpoint each.
"""

import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence

import uvloop

from benchmarks.contestants.exchanges import said
from benchmarks.contestants.langgraph_graph import config, graphs, messages_of
from benchmarks.side_by_side.figures import Figures, say
from benchmarks.side_by_side.load import HOST, post
from benchmarks.side_by_side.serving import free_port, load_options, loaded, serving

APP = "benchmarks.contestants.langgraph_app:app"


async def main(arguments: Namespace) -> Figures:
    port = free_port()
    aged = await _aged(arguments)
    options = ["--host", HOST, "--port", str(port), "--workers", str(arguments.processes)]
    options += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
    settings = {"DATABASE_URL": arguments.database, "MESSAGES": arguments.messages, "SAVERS": str(arguments.savers)}

    async def scripts(clients: int, turns: int) -> Sequence[Sequence[bytes]]:
        threads, first = aged.get(clients, []), arguments.age
        if not threads:
            threads, first = [uuid.uuid4() for _ in range(clients)], 0
        return [
            [post(f"/threads/{thread}/turns", {"user_input": said(at, turn)}) for turn in range(first, first + turns)]
            for at, thread in enumerate(threads)
        ]

    async with serving("uvicorn", [APP, *options], port, settings) as service:
        return await loaded(arguments, service, scripts, 200, _settle)


async def _aged(arguments: Namespace) -> Mapping[int, Sequence[uuid.UUID]]:
    """Make conversations of so many turns, for each number of clients; and the tables, in any case."""
    made: dict[int, list[uuid.UUID]] = {}
    async with graphs(arguments.database, arguments.messages) as several:
        for clients, _ in arguments.clients if arguments.age else ():
            made[clients] = [uuid.uuid4() for _ in range(clients)]
            for at, thread in enumerate(made[clients]):
                values = {"messages": messages_of(at, range(arguments.age))}
                await several[0].aupdate_state(config(thread), values, as_node="finalize_turn")
    return made


async def _settle(_turns: int) -> None:
    """Wait for nothing: what is answered is stored."""


if __name__ == "__main__":
    given = load_options(messages=str, savers=int, age=int)
    say(uvloop.run(main(given)))
