"""What LangGraph's turns take of a disk."""

from argparse import Namespace

import uvloop

from benchmarks.contestants.langgraph_graph import TABLES, graphs
from benchmarks.contestants.langgraph_turns import converse
from benchmarks.side_by_side.figures import Figures, options, say
from benchmarks.side_by_side.growth import grown


async def main(arguments: Namespace) -> Figures:
    async with graphs(arguments.database, arguments.messages) as made:

        async def talk(threads: range, turns: range) -> None:
            await converse(made, arguments, threads, turns, [])

        return await grown(arguments, {"write": TABLES}, talk)


if __name__ == "__main__":
    say(uvloop.run(main(options(turns=int, in_all=int, durability=str, messages=str))))
