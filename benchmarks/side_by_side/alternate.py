"""Contestants in turn: A B A B and so on, so that what the machine does meanwhile falls on all of them."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.postgres import Server

PAIRS = 5

Round: TypeAlias = Mapping[str, Figures]
"""What each contestant has told, by its name, of one run each."""


@dataclass(frozen=True)
class Case:
    """One comparison under one condition. The first contestants, `own` of them, are ours; the others are rivals."""

    name: str
    contestants: Sequence[Contestant]
    own: int = 1


@dataclass(frozen=True)
class Played:
    """A case with everything that was measured: nothing is left out, and a run that fails ends it all."""

    name: str
    contestants: Sequence[str]
    rounds: Sequence[Round]
    own: int = 1

    @property
    def ours(self) -> Sequence[str]:
        """Name those that the rivals are compared to."""
        return self.contestants[: self.own]

    @property
    def rivals(self) -> Sequence[str]:
        """Name the others."""
        return self.contestants[self.own :]

    def tells(self, contestant: str, key: str) -> bool:
        """Say whether a contestant has told a figure in every round."""
        return all(key in around[contestant] for around in self.rounds)

    def values(self, contestant: str, key: str) -> Sequence[float]:
        """List one figure of one contestant, round by round."""
        return [float(played[contestant][key]) for played in self.rounds]


def alternate(case: Case, server: Server, pairs: int = PAIRS) -> Played:
    """Run all contestants of a case, one after the other, so many times around."""
    rounds: list[dict[str, Figures]] = []
    for number in range(1, pairs + 1):
        rounds.append({})
        for contestant in case.contestants:
            began = time.perf_counter()
            rounds[-1][contestant.name] = contestant.run(server)
            took = time.perf_counter() - began
            print(f"{case.name}, {number} of {pairs}: {contestant.name}, {took:.1f} s", file=sys.stderr, flush=True)
    return Played(case.name, [contestant.name for contestant in case.contestants], rounds, case.own)
