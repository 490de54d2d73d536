"""What Threadfold's turns take of a disk: its log and snapshots, and apart from that its read models."""

from argparse import Namespace

import uvloop

from api.services.threads import Service
from benchmarks.contestants.threadfold_turns import READ_MODELS, WRITE_SIDE, converse, working
from benchmarks.side_by_side.figures import Figures, options, say
from benchmarks.side_by_side.growth import grown
from domain.ids import ThreadId


async def main(arguments: Namespace) -> Figures:
    async with working(arguments) as runtime:
        service = Service(runtime)

        async def talk(threads: range, turns: range) -> None:
            ids = [ThreadId(runtime.new_id()) for _ in threads]
            await converse(service, ids, turns, [], first=threads.start)
            await runtime.catch_up()

        return await grown(arguments, {"write": WRITE_SIDE, "read": READ_MODELS}, talk)


if __name__ == "__main__":
    given = options(turns=int, in_all=int, durability=str)
    given.recall = "off"  # what is recalled is not stored
    say(uvloop.run(main(given)))
