"""What conversations of different lengths take of a disk, told by one run that stops at each length and looks."""

import argparse
from collections.abc import Awaitable, Callable, Iterator, Mapping

from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.sizes import checkpoint, size_of

MARKS = (10, 50, 200, 1000)
"""Turns of a conversation after which it is measured."""

Converse = Callable[[range], Awaitable[None]]
"""Takes these turns in all threads."""


def marks(turns: int) -> Iterator[int]:
    """List the marks that conversations of so many turns pass."""
    return (mark for mark in MARKS if mark <= turns)


async def grown(arguments: argparse.Namespace, sides: Mapping[str, str], converse: Converse) -> Figures:
    """Take turns, and tell what all of them take so far, by turn, at each mark. `sides` are names of sets of tables."""
    told, done, url = {}, 0, arguments.database
    before = {side: await size_of(url, tables) for side, tables in sides.items()}
    for mark in marks(arguments.turns):
        await converse(range(done, mark))
        done = mark
        told[str(mark)] = {"autovacuums": await checkpoint(url)}
        for side, tables in sides.items():
            now, total = await size_of(url, tables), mark * arguments.threads
            for what in ("bytes", "rows"):
                told[str(mark)][f"{side}_{what}"] = (now[what] - before[side][what]) / total
    return told
