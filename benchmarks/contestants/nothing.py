"""Asks PostgreSQL for nothing much, so many times: shows that the benchmarks work, and what they cost themselves."""

import argparse
import asyncio

import asyncpg

from benchmarks.side_by_side.figures import Figures, metered, options, say


async def main(arguments: argparse.Namespace) -> Figures:
    connection = await asyncpg.connect(arguments.database)
    with metered(arguments) as figures:
        for _ in range(arguments.times):
            await connection.fetchval("SELECT 1")
    await connection.close()
    return {**figures, "times_per_s": arguments.times / figures["wall_s"]}


if __name__ == "__main__":
    given = options(times=int)
    say(asyncio.run(main(given)))
