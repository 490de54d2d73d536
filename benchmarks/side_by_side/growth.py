"""What a turn takes of a disk in conversations of different lengths, told by one run that has them one after the other.

Of each length there are so many conversations that their turns are as many: what is left of a table's last page, or of
an index's, counts as much at each length.
"""

import argparse
from collections.abc import Awaitable, Callable, Iterator, Mapping

from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.sizes import checkpoint, size_of
from benchmarks.side_by_side.stretches import WARMING_UP

MARKS = (10, 50, 200, 1000)
"""Turns of a conversation."""

Converse = Callable[[range, range], Awaitable[None]]
"""Takes these turns, the second, in new conversations, the first: they are numbered."""


def marks(turns: int) -> Iterator[int]:
    """List the lengths up to this one."""
    return (mark for mark in MARKS if mark <= turns)


def conversations(turns: int, in_all: int) -> int:
    """Say how many conversations of so many turns have about `in_all` turns; not one alone."""
    return max(2, in_all // turns)


async def grown(arguments: argparse.Namespace, sides: Mapping[str, str], converse: Converse) -> Figures:
    """Have conversations of each length, and tell what they have added by turn. `sides` are names of sets of tables.

    Every table has its first page before: a conversation came first that does not count.
    """
    told, url = {}, arguments.database
    await converse(range(1), WARMING_UP)
    first = 1
    for mark in marks(arguments.turns):
        before = {side: await size_of(url, tables) for side, tables in sides.items()}
        count = conversations(mark, arguments.in_all)
        await converse(range(first, first + count), range(mark))
        first += count
        told[str(mark)] = {"autovacuums": await checkpoint(url)}
        for side, tables in sides.items():
            now = await size_of(url, tables)
            for what in ("bytes", "rows"):
                told[str(mark)][f"{side}_{what}"] = (now[what] - before[side][what]) / (mark * count)
    return told
