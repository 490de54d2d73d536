"""Which turns of a long conversation are measured.

Either all of them; or, where that takes minutes, one stretch in the middle, or several that are spread evenly. Before
each the conversation is brought on by cheaper means, which are not measured: the same messages are there, as if all had
been said. As what a turn takes grows steadily, the mean of the stretches is that of the whole conversation.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.side_by_side.figures import Figures, metered, options, quantiles

WARMING_UP = range(5)
"""The turns that each contestant takes in a conversation of its own before: what is loaded late is loaded then."""


def turn_options(**more: Callable[[str], Any]) -> argparse.Namespace:
    """Read the options of a contestant that takes turns, and those that only this one has.

    `threads` conversations of `turns` turns; of these, `stretches` times `length` turns are measured.
    """
    return options(threads=int, turns=int, durability=str, stretches=int, length=int, **more)


def stretches(arguments: argparse.Namespace) -> Sequence[range]:
    """List the turns to measure, from 0 on, in stretches; each stands in the middle of its share of all turns."""
    turns, count, length = arguments.turns, arguments.stretches, arguments.length
    if count * length >= turns:
        return [range(turns)]
    share = turns / count
    starts = [round(share * (place + 0.5) - length / 2) for place in range(count)]
    return [range(start, start + length) for start in starts]


class Meter:
    """Adds up what the measured stretches take."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.figures: Figures = {}
        self.seconds: list[float] = []
        """Of each turn."""

    def __enter__(self) -> None:
        self._metered = metered(self.arguments)
        self._now = self._metered.__enter__()

    def __exit__(self, *error: object) -> None:
        self._metered.__exit__(None, None, None)
        for name, value in self._now.items():
            self.figures[name] = self.figures.get(name, 0.0) + value

    def told(self) -> Figures:
        """Give the sums, and what they are by turn."""
        count, sums = len(self.seconds), self.figures
        return {
            **sums,
            "turns": count,
            "turns_per_s": count / sums["wall_s"],
            "cpu_us": sums["cpu_s"] / count * 1e6,
            "postgres_us": sums.get("postgres_s", 0.0) / count * 1e6,
            **quantiles(self.seconds),
        }
