"""What comes of a comparison: a table on the terminal, NAME.json with every run, and NAME.png."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side.alternate import Played
from benchmarks.side_by_side.ratios import Figure, ratio


@dataclass(frozen=True)
class Report:
    """A comparison that was made. The first figure is the one that counts: ratios in the table and chart are of it."""

    name: str
    title: str
    figures: Sequence[Figure]
    cases: Sequence[Played]
    machine: Mapping[str, Any]
    notes: Sequence[str] = ()

    def write(self, directory: Path) -> None:
        """Print the table, and write the files."""
        from benchmarks.side_by_side.chart import bars  # noqa: PLC0415  only a benchmark has what it needs

        Console(width=160).print(table(self))
        for note in self.notes:
            print(note)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{self.name}.json").write_text(json.dumps(as_json(self), indent=1) + "\n", encoding="utf-8")
        bars(self, directory / f"{self.name}.png")


def table(report: Report) -> Table:
    """Lay the medians out, and how many times better each of ours is than each rival."""
    shown = Table(title=report.title, title_justify="left")
    shown.add_column("case")
    shown.add_column("who")
    for figure in report.figures:
        shown.add_column(figure.heading, justify="right")
    for name in ours(report):
        shown.add_column(f"{name} against it, times better", justify="right")
    for played in report.cases:
        for row in _rows(report, played):
            shown.add_row(*row)
        shown.add_section()
    return shown


def ours(report: Report) -> Sequence[str]:
    """Name all that is ours, in any case."""
    return [*dict.fromkeys(name for played in report.cases for name in played.ours)]


def _rows(report: Report, played: Played) -> Iterator[Sequence[str]]:
    for place, name in enumerate(played.contestants):
        values = [_median(played, name, figure) for figure in report.figures]
        ratios = [_ratio(report, played, one, name) for one in ours(report)]
        yield "" if place else played.name, name, *values, *ratios


def _ratio(report: Report, played: Played, one: str, name: str) -> str:
    if one not in played.ours or name not in played.rivals:
        return ""
    return str(ratio(played, name, report.figures[0], one) or "")


def _median(played: Played, name: str, figure: Figure) -> str:
    if not played.tells(name, figure.key):
        return "-"
    return figure.shown(statistics.median(played.values(name, figure.key)))


def as_json(report: Report) -> dict[str, Any]:
    """Give everything that was measured, and the ratios, as JSON."""
    return {
        "name": report.name,
        "title": report.title,
        "machine": report.machine,
        "notes": list(report.notes),
        "figures": {figure.key: {"heading": figure.heading, "better": figure.better} for figure in report.figures},
        "cases": [_case(report, played) for played in report.cases],
    }


def _case(report: Report, played: Played) -> dict[str, Any]:
    return {
        "case": played.name,
        "ours": list(played.ours),
        "times_better": {
            one: {
                rival: {
                    figure.key: compared.as_json()
                    for figure in report.figures
                    if (compared := ratio(played, rival, figure, one)) is not None
                }
                for rival in played.rivals
            }
            for one in played.ours
        },
        "rounds": [dict(around) for around in played.rounds],
    }
