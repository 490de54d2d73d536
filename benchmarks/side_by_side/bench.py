"""What a comparison is given: the server, how often to go around, and where results go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.side_by_side.alternate import Case, Played, alternate
from benchmarks.side_by_side.machine import machine
from benchmarks.side_by_side.postgres import Server
from benchmarks.side_by_side.ratios import Figure
from benchmarks.side_by_side.report import Report


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks.

    `extent`: `tiny` shows in seconds that everything works, `short` is what `make bench` runs, `full` every case.
    """

    server: Server
    pairs: int
    extent: Literal["tiny", "short", "full"]
    results: Path

    def play(self, cases: Sequence[Case], pairs: int | None = None) -> Sequence[Played]:
        """Run the cases, one after the other."""
        return [alternate(case, self.server, pairs or self.pairs) for case in cases]

    def report(
        self, name: str, title: str, figures: Sequence[Figure], cases: Sequence[Played], notes: Sequence[str] = ()
    ) -> Report:
        """Print the table, and write NAME.json and NAME.png."""
        report = Report(name, title, figures, cases, machine(self.server), notes)
        report.write(self.results)
        return report
